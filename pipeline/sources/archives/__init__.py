"""Sources inside archives: listed as if the archives were unpacked where they are, and read without unpacking them."""
