"""The rules, by what they are about. Importing them makes them known."""
