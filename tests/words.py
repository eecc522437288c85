"""Words that tests make texts of."""

WORDS = ["red", "green", "blue", "dark", "light", "sky", "sea", "grass", "stone"]
WORDS += ["night"]
