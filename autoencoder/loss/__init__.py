"""What the loss of an autoencoder is made of: its terms, perception, and an adversary."""
