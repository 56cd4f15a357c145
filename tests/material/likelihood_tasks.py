"""Questions that a small model can answer."""

# Contexts and continuations, the right one first.
TASKS = [
    ("The capital of France is", " Paris", " Berlin", " Madrid", " Rome"),
    ("The capital of Japan is", " Tokyo", " Beijing", " Seoul", " Bangkok"),
    ("Water freezes at a temperature of zero degrees", " Celsius", " Kelvin", " apples", " miles"),
    ("The opposite of hot is", " cold", " warm", " loud", " green"),
    ("A week has seven", " days", " months", " hours", " years"),
    ("The sun rises in the", " east", " west", " north", " night"),
    ("Bees make", " honey", " milk", " bread", " iron"),
    ("Two plus two equals", " four", " five", " seven", " ten"),
    ("She opened her umbrella because it began to", " rain", " sing", " burn", " shine"),
    ("He was thirsty, so he drank a glass of", " water", " sand", " stones", " paper"),
    ("The largest ocean on Earth is the", " Pacific Ocean", " Atlantic Ocean", " Black Sea", " River Nile"),
    ("To see small things, scientists use a", " microscope", " telescope", " hammer", " thermometer"),
    ("Shakespeare wrote the play", " Romeo and Juliet", " War and Peace", " Don Quixote", " Faust"),
    ("Plants need sunlight, water and", " carbon dioxide", " chocolate", " plastic", " electricity"),
    ("In Python, a function is defined with the keyword", " def", " loop", " integer", " goto"),
    ("The chemical symbol of gold is", " Au", " Ag", " Fe", " Pb"),
]
