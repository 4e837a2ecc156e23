"""How a setting is declared, read and checked."""
