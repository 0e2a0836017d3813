"""W&B Training, driven through ART's client by a submit-and-follow loop of our own."""
