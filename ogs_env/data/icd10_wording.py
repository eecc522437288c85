"""Wordings of questions and answers about ICD-10-CM, by kind of question.

Each question wording of a kind can be combined with each of its answer wordings.
`ogs_env.data.icd10` fills in the names in braces.
"""

Wordings = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]

LONG: Wordings = {
    "meaning": (
        (
            "What does the ICD-10-CM code {code} stand for?",
            "Which condition is coded as {code} in ICD-10-CM?",
            "A discharge letter lists the diagnosis code {code}. What does it mean?",
            "Explain the diagnosis code {code}.",
            "I found {code} on my medical bill. What is it?",
            "Translate the ICD-10-CM code {code} into words.",
            "What diagnosis is behind {code}?",
            "How is {code} described in the ICD-10-CM classification?",
        ),
        (
            "{code} is the ICD-10-CM code for {name}.",
            "The code {code} stands for: {name}.",
            "In ICD-10-CM, {code} is described as {name}.",
            "It means {name}.",
            "Code {code} denotes the diagnosis '{name}'.",
            "{name} is what {code} stands for.",
        ),
    ),
    "code": (
        (
            "Which ICD-10-CM code is used for {name}?",
            "How would you code {name} in ICD-10-CM?",
            "A physician documents: {name}. Which ICD-10-CM code fits?",
            "Find the ICD-10-CM code for the following diagnosis: {name}.",
            "What is the diagnosis code of {name}?",
            "Under what code does ICD-10-CM list {name}?",
            "I need to code a case of {name}. What is the code?",
        ),
        (
            "{name} is coded as {code}.",
            "The ICD-10-CM code for this diagnosis is {code}.",
            "Use the code {code}, which stands for {name}.",
            "ICD-10-CM lists it under {code}.",
            "The right code is {code}: {name}.",
        ),
    ),
    "chapter": (
        (
            "To which chapter of ICD-10-CM does {code} ({name}) belong?",
            "In which chapter is {name} classified, code {code}?",
            "What chapter of the classification holds the code {code}?",
            "Name the ICD-10-CM chapter of {code}, {name}.",
            "Which group of diseases does {name} ({code}) fall into at the level of "
            "chapters?",
        ),
        (
            "{code} belongs to chapter {chapter}, {chapter_name}.",
            "It is classified in chapter {chapter}: {chapter_name}.",
            "The chapter is number {chapter}, which covers {chapter_name}.",
            "{name} falls under '{chapter_name}', the classification's chapter "
            "{chapter}.",
        ),
    ),
    "block": (
        (
            "Which block of ICD-10-CM contains {code} ({name})?",
            "In what range of codes would I look for {name}, {code}?",
            "Name the block that the code {code} is part of.",
            "{name} has the code {code}. Which section of its chapter is that?",
        ),
        (
            "{code} lies in the block {block}, {block_name}.",
            "It is part of {block}: {block_name}.",
            "The block is {block}, which covers {block_name}.",
            "Look in {block} ({block_name}); {code} is found there.",
        ),
    ),
    "parent": (
        (
            "What is the parent of the ICD-10-CM code {code} ({name})?",
            "Which broader code does {code} come under?",
            "{code} stands for {name}. What is the next more general code?",
            "Go one level up from {code} in ICD-10-CM. Where do you arrive?",
            "Of which diagnosis is {name} ({code}) a subdivision?",
        ),
        (
            "The parent of {code} is {parent}, {parent_name}.",
            "{code} is a subdivision of {parent} ({parent_name}).",
            "One level up is {parent}, which stands for {parent_name}.",
            "It comes under {parent}: {parent_name}.",
        ),
    ),
    "children": (
        (
            "How is {code} ({name}) subdivided in ICD-10-CM?",
            "Which codes come directly under {code}, {name}?",
            "List the subdivisions of the code {code}.",
            "{name} ({code}) is too general for my documentation. What are the more "
            "specific codes?",
        ),
        (
            "{code} has {number} subdivisions: {children}.",
            "Directly under {code} come {children}.",
            "It is divided into {children}.",
            "The more specific codes are {children}.",
        ),
    ),
    "inclusions": (
        (
            "Which conditions are included under {code} ({name})?",
            "What else is coded as {code}, {name}?",
            "Name conditions that ICD-10-CM classifies under {name}, {code}.",
            "What does the ICD-10-CM code {code} cover?",
        ),
        (
            "Included under {code} are {terms}.",
            "{code} covers {terms}.",
            "{name} includes {terms}.",
            "The classification puts these conditions here: {terms}.",
        ),
    ),
    "term": (
        (
            "Where does ICD-10-CM classify {term}?",
            "Under which code and name is '{term}' found in ICD-10-CM?",
            "The chart says '{term}'. How is that coded?",
            "What is the proper ICD-10-CM diagnosis for {term}?",
            "Which code covers {term}?",
        ),
        (
            "It is classified under {code}, {name}.",
            "{term} is coded as {code} ({name}).",
            "ICD-10-CM includes it in {code}: {name}.",
            "The diagnosis is {name}, with the code {code}.",
        ),
    ),
    "difference": (
        (
            "What is the difference between {code} and {other} in ICD-10-CM?",
            "How do the codes {code} and {other} differ?",
            "Should I use {code} or {other}? What does each mean?",
            "Compare the diagnosis codes {code} and {other}.",
        ),
        (
            "{code} stands for {name}, whereas {other} stands for {other_name}.",
            "{code} is {name}; {other} is {other_name}.",
            "The first, {code}, means {name}. The second, {other}, means {other_name}.",
            "Use {code} for {name}, and {other} for {other_name}.",
        ),
    ),
}

SHORT: Wordings = {
    "yes_meaning": (
        (
            "Does the ICD-10-CM code {code} stand for {claim}? Answer yes or no.",
            "Is {code} the code for {claim}? Reply with yes or no only.",
            "{code} means {claim}. Is that right, yes or no?",
            "Yes or no: {claim} is coded as {code}.",
        ),
        ("{truth}",),
    ),
    "yes_chapter": (
        (
            "Does {code} ({name}) belong to the chapter '{claim}'? Answer yes or no.",
            "Is {name}, {code}, classified under '{claim}'? Yes or no?",
            "Yes or no: the code {code} is in the ICD-10-CM chapter '{claim}'.",
        ),
        ("{truth}",),
    ),
    "bare_code": (
        (
            "Give the ICD-10-CM code for {name}. Answer with the code only.",
            "{name}: code?",
            "Reply with nothing but the ICD-10-CM code of {name}.",
            "ICD-10-CM code of the diagnosis '{name}', just the code:",
        ),
        ("{code}",),
    ),
    "either_code": (
        (
            "Which code stands for {name}, {first} or {second}? Answer with the code.",
            "{name}: {first} or {second}?",
            "Choose the right code for {name}: {first} or {second}. Code only.",
        ),
        ("{code}",),
    ),
    "chapter_number": (
        (
            "What is the number of the ICD-10-CM chapter that contains {code}? Answer "
            "with the number.",
            "Chapter number of {name} ({code})?",
            "In which chapter, by number, is {code}? Just the number.",
        ),
        ("{chapter}",),
    ),
}
