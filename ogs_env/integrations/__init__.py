"""Selection of training data inside trainers of other libraries."""
