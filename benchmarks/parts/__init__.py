"""What a benchmark needs beside its own file."""
