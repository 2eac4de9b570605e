"""Keys of MatPL (2025.3) that change nothing here: accepted with a note that names them."""

from __future__ import annotations

DESCRIPTOR_KEYS = frozenset(
    """
    e_tolerance cheby_order radial_num1 radial_num2 feature_type bias resnet_dt activation type_embedding cutoff n_max basis_size
    l_max zbl use_typewise_cutoff_zbl charge_mode gpumd_nep4 type_weight train_2b 1 2 3 4 5 6 7 8
    """.split()
)
"""In model.descriptor: other potentials' settings, and switches of a network that is fixed here."""

FITTING_KEYS = frozenset(
    """
    bias resnet_dt activation fix_cij fix_hiddenlayer fix_outlayer use_analytical_nep_grad
    """.split()
)
"""In model.fitting_net."""

OPTIMIZER_KEYS = frozenset(
    """
    reset_epoch start_epoch max_norm norm_type clip_value t_0 t_mult lambda_1 lambda_2 warm_epochs scale_lr scale_method
    scaling_method momentum gamma step scheduler stop_step decay_step train_egroup train_charge train_charge_ion train_bec
    train_bec_ion pre_fac_egroup pre_fac_charge pre_fac_bec start_pre_fac_ei start_pre_fac_egroup start_pre_fac_charge
    start_pre_fac_bec end_pre_fac_ei end_pre_fac_egroup end_pre_fac_charge end_pre_fac_bec
    """.split()
)
"""In optimizer."""

TRAIN_KEYS = frozenset(
    """
    model_num recover_train max_neigh_num save_step max_save_num profiling is_dfeat_sparse nep_txt_file nep_in_file feature_type
    type_embedding workers hvd dist_backend distributed master_addr master_port reduce_loss world_size rank dist_url valid_shuffle
    data_shuffle precision lmdb_stat_frames reserve_work_dir reserve_feature model_load_file model_name forcefield_name forcefield_dir
    save_p_matrix model_store_dir trainsetdir drfeatureinputdir drfeatureoutputdir traindatapath validdatapath train_valid_ratio
    test_dir_name work_dir alive_atomic_energy chunk_size
    """.split()
)
"""At the top of the training settings."""

KALMAN_ONLY = (
    "pre_fac_etot",
    "pre_fac_force",
    "pre_fac_virial",
    "train_ei",
    "pre_fac_ei",
    "block_size",
    "kalman_lambda",
    "kalman_nue",
    "p0_weight",
    "p_ceiling",
    "kalman_noise",
    "kalman_prior",
    "average_share",
    "p_float32",
    "nselect",
    "groupsize",
)
"""Of the optimizer's keys (as our settings name them) those of the Kalman filter alone."""

ADAM_ONLY = (
    *("learning_rate", "stop_lr", "weight_decay"),
    *(f"{end}_pre_fac_{what}" for end in ("start", "end") for what in ("etot", "force", "virial")),
)
"""And of Adam alone."""
