"""Our heads and losses in the forms of other libraries, one module each, imported only when asked for.

``integrations.torchrl``            QRL's and TMD's losses as TorchRL's; needs ``pip install qmkernels[torchrl]``.
``integrations.stable_worldmodel``  a head as a planning cost for stable-worldmodel, which it does not import.
"""
