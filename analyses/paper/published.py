"""What does the paper report? Kwon et al. 2026.

Tables 3, 4, 8 and 9: Overall, Memorization, Utility, Privacy, EM. Table 2, of CIFAR-10: ToW, DA, NMI.
"""

Row = tuple[float | None, ...]

TABLE_2: dict[str, Row] = {
    "Retrained": (0.999, 0.987, 0.410),
    "Fine-tune": (0.952, 0.973, 0.547),
    "NegGrad": (0.711, 0.970, 0.037),
    "NegGrad+": (0.936, 0.942, 0.244),
    "l1-sparse": (0.956, 0.975, 0.515),
    "Random Label": (0.916, 0.851, 0.996),
    "SalUn": (0.878, 0.833, 0.911),
    "Engram": (0.984, 0.958, 0.611),
}
TABLE_3: dict[str, Row] = {
    "full": (0.000, 0.000, 1.000, 0.004, 1.000),
    "retain": (0.998, 1.000, 0.993, 1.000, 0.000),
    "GradDiff": (0.227, 0.185, 0.993, 0.147, 0.718),
    "IdkNLL": (0.146, 0.455, 0.910, 0.058, 0.621),
    "UNDIAL": (0.413, 0.564, 0.916, 0.227, 0.740),
    "RMU": (0.757, 0.866, 0.747, 0.680, 0.295),
    "AltPO": (0.955, 0.925, 0.986, 0.955, 0.095),
    "NPO": (0.944, 0.934, 0.950, 0.948, 0.095),
    "SimNPO": (0.945, 0.944, 0.971, 0.923, 0.104),
    "IdkDPO": (0.889, 0.953, 0.966, 0.775, 0.116),
    "Task Arithmetic": (0.584, 0.900, 0.678, 0.392, 0.128),
    "UCE": (0.659, 0.901, 0.951, 0.418, 0.135),
    "Engram, uniform alpha": (0.698, 0.918, 0.880, 0.483, 0.007),
    "Engram, alpha by W-Norm": (0.818, 0.963, 0.926, 0.645, 0.028),
}
TABLE_8: dict[str, Row] = {
    "all linear projections, alpha by W-Norm": (0.819, 0.963, 0.926, 0.645, 0.028),
    "Q/K only, alpha by W-Norm": (0.510, 0.715, 0.590, 0.359, 0.554),
    "Q/K + gate, alpha by W-Norm": (0.819, 0.930, 0.928, 0.661, 0.076),
    "no Q/K/gate, alpha by W-Norm": (0.238, 0.663, 0.968, 0.099, 0.505),
}
TABLE_9: dict[str, Row] = {
    "naive delta, alpha by W-Norm": (0.446, None, None, None, 0.617),
    "tabula rasa, alpha by W-Norm": (0.818, 0.963, 0.926, 0.645, 0.028),
}
