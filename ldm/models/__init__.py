"""Networks: built, loaded, grown."""
