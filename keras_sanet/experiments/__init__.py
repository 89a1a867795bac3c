"""Does the aggregation help? The paper's comparisons (Tables I to III, Figure 3) as experiments.

Rows of a table are trained with one recipe and several seeds.
"""

from keras_sanet.experiments.protocol import FIGURES, PROTOCOL, PROTOCOLS, RESULTS, protocol
from keras_sanet.experiments.results import Results, interval
from keras_sanet.experiments.rows import EXPERIMENTS, ROWS, build, list_rows
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
    "list_rows",
    "protocol",
    "train",
]
