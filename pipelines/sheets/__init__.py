"""Pictures with their captions, and pages of charts and tables."""
