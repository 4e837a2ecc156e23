"""What a call is given, and what it gives back."""
