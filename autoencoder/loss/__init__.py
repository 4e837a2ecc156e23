"""The terms of an autoencoder's loss, and its adversary."""
