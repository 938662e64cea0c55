from dataclasses import replace

import pytest

from engram_interp import Concept, explore, testbed
from engram_interp.report.explorer.exploration import Exploration

HOSTILE = '<script>window.hacked = true</script><img src=x onerror="window.hacked = true">'
"""What a user may have in a name or an answer."""


@pytest.fixture(scope="session")
def concepts():
    corpus = testbed.authors()
    first, second, *others = corpus.forget10[:4]
    reference = [example for other in others for example in other.examples]
    return [Concept(one.examples, reference, one.name) for one in (first, second)]


@pytest.fixture(scope="session")
def found(_full, concepts):
    """Two memories, of which three matrices each were looked into."""
    return explore(
        _full, concepts, n_matrices=3, alphas=[4, 16], components=["O", "gate", "U"], layers=[0, 1], progress=False
    )


@pytest.fixture
def hostile(found):
    """The same with markup wherever a user's text is shown."""
    name, memory = next(iter(found.memories.items()))
    rows = [replace_text(row) for row in memory.strengths.answers["target"]]
    strengths = replace(memory.strengths, answers=memory.strengths.answers | {"target": rows})
    matrices = {key: hostile_matrix(one) for key, one in memory.matrices.items()}
    wmap = replace(memory.wmap, name=HOSTILE, model=HOSTILE, memories=HOSTILE)
    other = replace(found.memory(list(found.memories)[1]), strengths=None)
    return Exploration({HOSTILE: replace(memory, wmap=wmap, strengths=strengths, matrices=matrices), name: other})


def replace_text(row):
    return {"question": HOSTILE, "truth": HOSTILE, "said": [HOSTILE + str(i) for i in range(len(row["said"]))]}


def hostile_matrix(one):
    directions = [replace(direction, tokens=[HOSTILE]) for direction in one.reads]
    changed = [replace(some, side=HOSTILE, question=HOSTILE, before=HOSTILE, after=HOSTILE) for some in one.changed]
    return replace(one, reads=directions, writes=directions, changed=changed, notes=[HOSTILE])
