"""`attach` where others own the loop: transformers, Lightning, accelerate, peft, each in a module of its own.

Owns when their loops offer a step, a save and an end. None of these packages is imported before its module
is, which says what to install where it lacks (`MissingExtra`).
"""

from diloco.extras import require

require("train", "diloco.integrations")
