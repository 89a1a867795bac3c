"""Does the aggregation help? The paper's comparisons as experiments (Tables I to III, Figure 3)."""

from keras_sanet.experiments.protocol import FIGURES, PROTOCOL, PROTOCOLS, RESULTS, protocol
from keras_sanet.experiments.results import Results, interval
from keras_sanet.experiments.rows import EXPERIMENTS, ROWS, build, rows_of
from keras_sanet.experiments.run import add_costs, begin, costs, train
from keras_sanet.experiments.table2 import TableII

__all__ = [
    "EXPERIMENTS",
    "FIGURES",
    "PROTOCOL",
    "PROTOCOLS",
    "RESULTS",
    "ROWS",
    "Results",
    "TableII",
    "add_costs",
    "begin",
    "build",
    "costs",
    "interval",
    "protocol",
    "rows_of",
    "train",
]
