"""A model as everybody takes it: the ports of its parts."""
