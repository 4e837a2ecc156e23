"""Pictures side by side, with their captions."""
