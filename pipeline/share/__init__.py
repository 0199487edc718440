"""Share datasets on the Hugging Face Hub: push frame stores and token sets, and pull them."""
