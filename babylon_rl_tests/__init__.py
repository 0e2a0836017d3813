"""Tests of babylon_rl; the folders mirror its rooms."""
