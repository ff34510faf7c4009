"""What a language model is given for a reply, and the memory that it is drawn from."""
