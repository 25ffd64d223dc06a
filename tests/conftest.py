"""Shape annotations are enforced wherever tests call the objectives and the memories."""

import signal

import torch
from jaxtyping import install_import_hook

# Before anything imports seqrl: the hook rewrites modules as they are loaded.
install_import_hook(["seqrl.objectives", "seqrl.memory"], "beartype.beartype")

torch.set_num_threads(1)  # the tensors of tests are small, and tests run side by side

# A shell in the background hands down an ignored Ctrl-C, to these tests and to the commands that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
