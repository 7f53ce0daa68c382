"""Operators that move, create, index, compare or sort: no floating-point arithmetic to speak of."""

import torch

# Namespaces of marks and checks.
_FREE_SPACES = ("profiler", "prim", "debugprims", "rngprims", "_c10d_functional")

_NAMES = """
    all allclose amax amin _aminmax aminmax any arange argmax argmin argsort as_strided as_strided_scatter
    _assert_async _assert_scalar _assert_tensor_metadata bartlett_window bernoulli bincount binomial
    bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor blackman_window
    block_diag bucketize cat cauchy channel_shuffle _chunk_cat clone _coalesce _coalesced col2im complex
    constant_pad_nd _convert_indices_from_coo_to_csr _convert_indices_from_csr_to_coo
    _convert_weight_to_int4pack _convert_weight_to_int4pack_for_cpu copy _copy_from _copy_from_and_resize
    copy_sparse_to_sparse count_nonzero _cslt_compress _cudnn_init_dropout_state _cudnn_rnn_flatten_weight
    cummax _cummax_helper cummin _cummin_helper dense_dim detach diag_embed diagonal_scatter _dimI _dimV
    dropout _dyn_quant_pack_4bit_weight _efficientzerotensor embedding empty _empty_affine_quantized
    empty_like _empty_per_channel_affine_quantized empty_permuted empty_quantized empty_strided eq equal
    exponential eye fft_fftfreq fft_rfftfreq fill flip _foreach_copy _foreach_zero from_file full
    full_like _functional_assert_async _functional_assert_scalar _functional_sym_constrain_range
    _functional_sym_constrain_range_for_size _fused_dropout _fused_sdp_choice gather ge geometric gt
    hamming_window hann_window _has_compatible_shallow_copy_type _has_same_storage_numel histc histogram
    __ilshift__ im2col index index_copy index_fill index_put _index_put_impl index_select int_repr
    __irshift__ _is_all_true _is_any_true is_coalesced is_pinned is_same_size is_set_to isfinite isin
    isinf isnan item _jagged_to_padded_dense_forward kaiser_window kthvalue _lazy_clone le lift lift_fresh
    _linalg_check_errors linspace _local_scalar_dense log_normal logical_and logical_not logical_or
    logical_xor logspace __lshift__ lt lu_unpack _make_dep_token _make_per_channel_quantized_tensor
    _make_per_tensor_quantized_tensor masked_fill masked_scatter masked_select max max_unpool2d
    max_unpool3d median min _mkldnn_reshape _mkldnn_transpose mode multinomial nanmedian
    native_channel_shuffle native_dropout ne _nested_compute_contiguous_strides_offsets
    _nested_from_padded _nested_from_padded_and_nested_example _nested_from_padded_tensor
    _nested_get_jagged_dummy _nested_get_lengths _nested_get_max_seqlen _nested_get_min_seqlen
    _nested_get_offsets _nested_get_ragged_idx _nested_tensor_from_mask
    _nested_tensor_from_mask_left_aligned _nested_tensor_from_tensor_list _nested_tensor_size
    _nested_tensor_storage_offsets _nested_tensor_strides new_empty new_empty_strided new_full new_ones
    new_zeros _new_zeros_with_same_feature_meta _nnz nonzero nonzero_static normal normal_functional
    one_hot ones ones_like _pack_padded_sequence pad _padded_dense_to_jagged_forward _philox_normal
    _philox_randint _philox_uniform _pin_memory pixel_shuffle pixel_unshuffle poisson _print put
    q_per_channel_axis q_per_channel_scales q_per_channel_zero_points q_scale q_zero_point qscheme rand
    rand_like randint randint_like randn randn_like random randperm range record_stream reflection_pad1d
    reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
    replication_pad3d _reshape_alias _reshape_copy resize resize_as resize_as_sparse _resize_output roll
    rot90 __rshift__ scalar_tensor scatter searchsorted select_backward select_scatter set
    shallow_copy_data slice_scatter sort _sparse_broadcast_to sparse_compressed_tensor
    _sparse_compressed_tensor_with_dims sparse_coo_tensor _sparse_coo_tensor_with_dims
    _sparse_coo_tensor_with_dims_and_tensors sparse_dim sparse_mask _sparse_mask_projection sparse_resize
    sparse_resize_and_clear _sparse_semi_structured_tile _spdiags split_with_sizes _stack stack
    sym_constrain_range sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size
    sym_storage_offset sym_stride take tensor_split _to_copy _to_dense to_mkldnn to_padded_tensor
    _to_sparse _to_sparse_bsc _to_sparse_bsr _to_sparse_csc _to_sparse_csr _to_sparse_semi_structured topk
    tril tril_indices triu triu_indices unfold uniform _unique _unique2 unique_consecutive unique_dim
    unique_dim_consecutive _unsafe_index _unsafe_index_put _unsafe_masked_index unsafe_split
    unsafe_split_with_sizes _unsafe_view _validate_compressed_sparse_indices where zero zeros zeros_like
"""
_FREE = frozenset("aten::" + name for name in _NAMES.split()) | {
    "torchvision::_cuda_version",
    "quantized::cat",
    "quantized::cat_relu",
    "quantized::dropout",
}
# Weights are packed for a kernel once, not at each pass.
_PACKING = ("_prepack", "_pack", "_unpack", "_prepack_fp16", "_unpack_fp16")


def is_free(op: torch._ops.OpOverload) -> bool:
    """Whether an operator costs nothing, by its name or by what its schema says of it."""
    name = op._schema.name
    if op.is_view or torch.Tag.inplace_view in op.tags or op.namespace in _FREE_SPACES:
        return True
    # Views have forms that copy, everything has a form that writes in place.
    if any(each in _FREE for each in (name, name.removesuffix("_"))):
        return True
    copies = op.namespace == "aten" and name.endswith("_copy")
    return copies or name.endswith(_PACKING) or "::_reorder_" in name
