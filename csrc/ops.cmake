# The only list of ops. An op `foo` is csrc/{ops,math,cpu,cuda}/foo.* and qmkernels/{definitions,backends/*,ops}/foo.py.
set(QMK_OPS iqe mrn pqe poisson nearest qrl_critic fsq latent_dynamics metra temporal_consistency pair_loss row_loss
            shortest_paths)
