"""The Hugging Face Hub: requests, their errors, and files with digests. `huggingface_hub` is imported when used."""
