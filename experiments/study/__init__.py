"""The study of real fine-tuning: selectors and gradient surgery on new pools."""
