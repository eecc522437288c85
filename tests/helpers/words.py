"""Words for the texts of tests."""

WORDS = ["red", "green", "blue", "dark", "light", "sky", "sea", "grass", "stone"]
WORDS += ["night"]

# Prompts and responses of unlike lengths.
TEXTS = [
    ("what is a cold?", "an infection of the nose"),
    ("2+2", "4"),
    ("a longer question about nothing in particular, with a tail", "yes"),
    ("why?", "because of a long and winding explanation that goes on and on"),
    ("", "an answer without a question"),
]
