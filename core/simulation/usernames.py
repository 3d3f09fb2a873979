"""What simulated players are called.

Owns the words; the same place in the roster always has the same name.
"""

from typing import Final

_ADJECTIVE_WORDS: Final = (
    "amber agile brave bright calm candid clever cosmic crimson curious daring deft eager early "
    "easy fair fleet fresh gentle glad golden grand happy hardy honest humble ideal jolly keen "
    "kind lively loyal lucky mellow merry mighty modest nimble noble patient polite proud quick "
    "quiet rapid ready royal rustic serene sharp silent silver sly smart solid steady subtle sunny "
    "swift tidy vivid warm wise witty"
)
_ANIMAL_WORDS: Final = (
    "badger beaver bison bobcat bull caribou cheetah cobra condor cougar coyote crane dolphin "
    "eagle egret elk falcon ferret finch fox gecko gibbon hare hawk heron hornet ibex ibis iguana "
    "jackal jaguar kestrel koala lemur leopard lion lynx magpie marten moose narwhal ocelot orca "
    "osprey otter owl panda panther pelican penguin puffin puma raven robin salmon seal shark "
    "sparrow stork swan tiger turtle walrus wolf"
)
_ADJECTIVES: Final = _ADJECTIVE_WORDS.split()
_ANIMALS: Final = _ANIMAL_WORDS.split()


def username_of(place: int) -> str:
    """Return the username of the player with this place in the roster, from 0."""
    adjective = _ADJECTIVES[place % len(_ADJECTIVES)]
    row, lap = place // len(_ADJECTIVES), place // (len(_ADJECTIVES) * len(_ANIMALS))
    # the animal moves along with the adjective, so that neighbours share neither
    animal = _ANIMALS[(place + row) % len(_ANIMALS)]
    return f"{adjective}_{animal}" + (f"_{lap + 1}" if lap else "")


def name_of(username: str) -> str:
    """Return the name that is shown for a username."""
    return username.replace("_", " ").title()
