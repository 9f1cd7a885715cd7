"""A page to try networks in a browser, and the same as a Hugging Face Space; needs the extra 'demo'."""
