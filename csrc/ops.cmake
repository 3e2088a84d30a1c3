# The only list of ops. An op `foo` is csrc/{math,cpu,cuda,bindings}/foo.* and qmkernels/{reference,backends,ops}/foo.py.
set(QMK_OPS iqe mrn pqe poisson nearest qrl_critic fsq latent_dynamics metra temporal_consistency pair_loss)
