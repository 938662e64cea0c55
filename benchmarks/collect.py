"""How near is `collect` to what the arithmetic alone must cost?

Prints, in one run on one model: the bare forward pass without the unembedding, `collect`, and the floor, which is the
forward pass plus half of the moments' multiply-adds (they are symmetric) at the GEMM rate measured here; and
`collect` on a bridge and `ai-engram`, both on the same weights and tokens in Hugging Face form. Read the ratios:
seconds depend on the machine.
"""

import copy
import statistics
import time
from collections.abc import Callable

import click
import torch
from engram import EditorConfig, EngramEditor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformers import LlamaConfig, LlamaForCausalLM

from engram_interp import Concept, collect
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of

BLOCK = ["Q", "K", "V", "O", "gate", "in", "out"]


def models(d_model: int, n_layers: int, n_ctx: int) -> tuple[LlamaForCausalLM, HookedTransformer]:
    """A random Llama in both forms, with grouped queries and `d_mlp = 4 d_model`."""
    torch.manual_seed(0)
    n_heads = d_model // 64
    hf = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=d_model, num_hidden_layers=n_layers, num_attention_heads=n_heads, intermediate_size=4 * d_model,
            num_key_value_heads=n_heads // 4, vocab_size=4096, max_position_embeddings=n_ctx, rms_norm_eps=1e-5,
            tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    cfg = HookedTransformerConfig(
        n_layers=n_layers, d_model=d_model, n_ctx=n_ctx, n_heads=n_heads, d_head=64, d_mlp=4 * d_model, d_vocab=4096,
        n_key_value_heads=n_heads // 4, act_fn="silu", normalization_type="RMS", positional_embedding_type="rotary",
        rotary_dim=64, rotary_adjacent_pairs=False, gated_mlp=True, eps=1e-5, seed=0, device="cpu",
    )  # fmt: skip
    model = HookedTransformer(cfg)
    model.load_state_dict(convert_llama_weights(hf, cfg), strict=False)
    return hf, model


def seconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of every run, taken in turn so that a slow spell of the machine meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if repeat:  # the first round warms up
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


@torch.no_grad()
def forward(model: HookedTransformer, batches: tuple[torch.Tensor, ...]) -> None:
    for batch in batches:
        model(batch, return_type=None, stop_at_layer=model.cfg.n_layers)


def theirs(hf: LlamaForCausalLM, tokens: torch.Tensor, batch_size: int, n_target: int) -> None:
    """The two passes that the authors' package makes: over the target, and over everything; without the unembedding."""
    editor = EngramEditor(hf, EditorConfig())
    names = [
        name.rpartition(".")[2] for name, module in hf.model.named_modules() if isinstance(module, torch.nn.Linear)
    ]
    for part in (tokens[:n_target], tokens):
        editor.collect_statistics(
            part.split(batch_size), batch_fn=lambda batch: batch, target_modules=sorted(set(names))
        )


@click.command()
@click.option("--d-model", default=1024, show_default=True)
@click.option("--n-layers", default=2, show_default=True)
@click.option("--examples", default=32, show_default=True)
@click.option("--length", default=256, show_default=True)
@click.option("--batch-size", default=8, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(d_model: int, n_layers: int, examples: int, length: int, batch_size: int, repeats: int) -> None:
    hf, model = models(d_model, n_layers, length)
    bridge = bridge_of("llama", copy.deepcopy(hf))
    tokens = torch.randint(0, 4096, (examples, length), generator=torch.Generator().manual_seed(0))
    n_target = examples // 4
    concept = Concept.from_tokens(tokens[:n_target], tokens[n_target:])
    adapter = adapt(model)
    widths = list(adapter.widths({site.input for site in adapter.sites(BLOCK)}).values())
    a, b = torch.randn(batch_size * length, 4 * d_model), torch.randn(batch_size * length, d_model)
    took = seconds(
        {
            "forward": lambda: forward(model, tokens.split(batch_size)),
            "collect": lambda: collect(model, concept, components=BLOCK, batch_size=batch_size, progress=False),
            "bridge": lambda: collect(bridge, concept, components=BLOCK, batch_size=batch_size, progress=False),
            "gemm": lambda: b.T @ a,
            "ai-engram": lambda: theirs(hf, tokens, batch_size, n_target),
        },
        repeats,
    )
    multiply_adds_a_second = batch_size * length * d_model * 4 * d_model / took["gemm"]
    half = examples * length * sum(d * d for d in widths) / 2
    floor = took["forward"] + half / multiply_adds_a_second
    click.echo(
        f"Llama, {n_layers} layers of width {d_model}, {examples} x {length} tokens, {torch.get_num_threads()} threads"
    )
    click.echo(f"bare forward            {took['forward']:8.3f} s")
    click.echo(f"floor                   {floor:8.3f} s   ({2 * multiply_adds_a_second / 1e9:.0f} GFLOP/s in GEMM)")
    click.echo(f"collect                 {took['collect']:8.3f} s   {took['collect'] / floor:.2f} x the floor")
    click.echo(f"collect on a bridge     {took['bridge']:8.3f} s   {took['bridge'] / took['collect']:.2f} x collect")
    click.echo(
        f"ai-engram               {took['ai-engram']:8.3f} s   {took['ai-engram'] / took['collect']:.2f} x collect"
    )


if __name__ == "__main__":
    main()
