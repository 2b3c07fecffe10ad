"""The command line has moved to the zoo, which knows the networks."""

import sys

sys.exit(
    "irnet_tf.export: the command is now `python -m zoo export NAME_OR_FILE --output=FILE.tflite`; "
    "`python -m zoo export --help` lists its flags"
)
