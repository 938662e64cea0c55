"""Table 7: what does forgetting cost?

Each method runs once from nothing, in a process of its own. The script measures the seconds, and the peak memory beyond
the loaded models (on Linux or a GPU). It then runs the method again and counts floating-point operations, which takes
longest. The values of the hyperparameters do not change the cost, and a search takes one run for each candidate.
`python -m analyses.paper.table_7_cost`, 17 to 40 min on one thread.
"""

import multiprocessing
import re
import time
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from analyses.paper.methods import Candidate, asked, closed_form, gradient
from analyses.results import Tables
from analyses.setting import Setting, command, load
from engram_interp.figures.style import MATRIX_COLOUR, TEMPLATE
from engram_interp.models import adapt

MEASURES = {"seconds": "seconds", "bytes": "peak memory beyond the models (bytes)", "flops": "operations"}


def measure(setting: Setting) -> Tables:
    """One row for each method."""
    names = list(dict.fromkeys(one.method for one in asked(setting, closed_form() + gradient())))
    context = multiprocessing.get_context("spawn")
    rows = []
    for name in tqdm(names, desc="costs", disable=None):
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=_cost, args=(setting.options, name, sending))
        process.start()
        sending.close()
        try:
            rows.append(receiving.recv())
        except EOFError:
            raise RuntimeError(f"the run of {name!r} failed: its error is above") from None
        process.join()
    adapter = adapt(setting.model)
    n_parameters = sum(adapter.parameter(site.key).numel() for site in adapter.all_sites())
    return {"costs": pd.DataFrame(rows), "model": pd.DataFrame([{"weights in matrices": n_parameters}])}


def _cost(options: dict[str, Any], name: str, sending: Any) -> None:
    setting = load(**options)
    (candidate, *_) = [one for one in closed_form() + gradient() if one.method == name]
    before = _peak_from_here()
    began = time.perf_counter()
    with candidate.make(setting):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    peak = _peak() - before
    sending.send({"method": name, "seconds": round(seconds, 2), "bytes": peak, "flops": flops(setting, candidate)})


def _peak_from_here() -> int:
    """Bytes in use now. From here on the peak is counted anew, without that of loading the models."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Peak bytes since `_peak_from_here`: of tensors on a GPU, else of the whole process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def flops(setting: Setting, candidate: Candidate) -> int:
    """Operations that run. An eigendecomposition of size d counts 9 d^3 (Golub and Van Loan, Section 8.3)."""
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._linalg_eigh: _eigh_flops})
    with counter, candidate.make(setting.fresh()):
        pass
    return counter.get_total_flops()


def _eigh_flops(shape: torch.Size, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 9 * shape[-1] ** 3


def text(tables: Tables) -> str:
    costs = tables["costs"].set_index("method")
    ratios = (costs / costs.min()).add_suffix(" / the least")
    return costs.join(ratios).to_string(float_format="{:.3g}".format)


def figure(tables: Tables) -> go.Figure:
    """One panel for each measure."""
    costs = tables["costs"][::-1]
    plot = make_subplots(rows=1, cols=3, shared_yaxes=True, subplot_titles=list(MEASURES.values()))
    for column, measure in enumerate(MEASURES, 1):
        plot.add_trace(
            go.Bar(x=costs[measure], y=costs["method"], orientation="h", marker_color=MATRIX_COLOUR), 1, column
        )
        plot.update_xaxes(title_text=MEASURES[measure], row=1, col=column)
    title = "What it takes to forget the forget set once"
    return plot.update_layout(title=title, template=TEMPLATE, height=620, width=1250, showlegend=False)


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
