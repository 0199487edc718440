"""Write run directories, determine their status, list and compare them."""
