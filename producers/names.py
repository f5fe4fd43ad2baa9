"""The words that the simulated world is made of."""

CATEGORIES: dict[str, tuple[str, ...]] = {
    "jazz": ("bebop", "saxophone", "swing", "fusion", "trumpet", "big-band"),
    "football": ("goals", "transfers", "tactics", "derby", "keepers", "cup"),
    "cooking": ("baking", "noodles", "grill", "vegan", "spices", "desserts"),
    "travel": ("islands", "trains", "backpacking", "cities", "visas", "hotels"),
    "science": ("physics", "genes", "brains", "climate", "chemistry", "labs"),
    "gaming": ("speedrun", "indie", "strategy", "consoles", "shooter", "mods"),
    "fashion": ("sneakers", "vintage", "runway", "denim", "jewellery", "tailoring"),
    "politics": ("elections", "parliament", "budget", "protest", "diplomacy", "law"),
    "film": ("thriller", "directors", "trailers", "animation", "noir", "festival"),
    "fitness": ("running", "yoga", "weights", "marathon", "stretching", "cycling"),
    "finance": ("stocks", "saving", "crypto", "taxes", "startups", "housing"),
    "nature": ("birds", "oceans", "forests", "insects", "mountains", "gardens"),
    "history": ("rome", "empires", "maps", "castles", "archives", "revolutions"),
    "comedy": ("standup", "sketches", "memes", "satire", "pranks", "puns"),
    "cars": ("electric", "rally", "classics", "engines", "drifting", "repairs"),
    "books": ("novels", "poetry", "crime", "fantasy", "essays", "libraries"),
    "art": ("painting", "sculpture", "murals", "museums", "ceramics", "sketchbook"),
    "pets": ("cats", "dogs", "rabbits", "parrots", "training", "aquarium"),
    "space": ("rockets", "mars", "telescopes", "astronauts", "comets", "galaxies"),
    "parenting": ("toddlers", "school", "sleep", "toys", "teenagers", "babies"),
}
GENERAL_TAGS = (
    "live", "interview", "explained", "longread", "short", "beginner", "expert", "local", "world", "review", "tutorial",
)  # fmt: skip
NOUNS = ("story", "guide", "moment", "talk", "diary", "report", "list", "lesson", "tour", "portrait")

PLATFORMS = {"ios": 0.35, "android": 0.4, "web": 0.25}  # share of users
DEVICES = {  # share of a platform's requests
    "ios": {"mobile": 0.85, "tablet": 0.15},
    "android": {"mobile": 0.92, "tablet": 0.08},
    "web": {"desktop": 0.9, "tablet": 0.1},
}
DEVICE_NAMES = ("mobile", "tablet", "desktop")
COUNTRIES = {"US": 0.25, "GB": 0.15, "DE": 0.15, "IN": 0.15, "BR": 0.1, "JP": 0.1, "NG": 0.06, "AU": 0.04}  # share of users
UTC_OFFSET = {"US": -5, "GB": 0, "DE": 1, "IN": 5, "BR": -3, "JP": 9, "NG": 1, "AU": 10}  # hours
AGE_GROUPS = {"18-24": 0.25, "25-34": 0.3, "35-44": 0.2, "45-54": 0.15, "55+": 0.1}
GENDERS = {"female": 0.49, "male": 0.49, "nonbinary": 0.02}
