"""What a network is told."""
