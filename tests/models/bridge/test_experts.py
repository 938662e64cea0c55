from engram_interp import collect
from tests.conftest import token_concept
from tests.models.bridge.tiny import bridge, of_config


def test_mixtures_without_them_are_read():
    model = of_config("Qwen3MoeConfig", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8)
    statistics = collect(model, token_concept())
    sent = [statistics.groups["target"][f"blocks.0.mlp.experts.{expert}.in"].count for expert in range(4)]
    assert sum(sent) == 2 * statistics.counts["target"]


def test_counts_are_those_of_the_concept_also_of_experts_alone():
    model, concept = bridge("Mixtral"), token_concept()
    everything, alone = (collect(model, concept, components=names) for names in (None, "in"))
    assert alone.counts == everything.counts
    assert (alone + alone).counts == {group: 2 * count for group, count in alone.counts.items()}
