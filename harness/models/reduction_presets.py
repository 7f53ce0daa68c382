"""Published rows of the papers that cut tokens, under short names."""

# Segmenter's rows are ALGM's README; settings as its training notes give them. CTS's numbers are its paper's.
REDUCTION_PRESETS = {
    "algm.vit-ti": "segmenter@vit-ti:reduction=algm:threshold=0.9",
    "algm.vit-s": "segmenter@vit-s:reduction=algm:threshold=0.88",
    "algm.vit-b": "segmenter@vit-b:reduction=algm:threshold=0.94",
    "algm.vit-l": "segmenter@vit-l:reduction=algm:layers=1,7:threshold=0.95",
    "algm.cityscapes": "segmenter@vit-s:train_size=768:num_classes=19:reduction=algm:threshold=0.955",
    "algm.pascal-context": "segmenter@vit-s:train_size=480:num_classes=60:reduction=algm:threshold=0.88",
    "cts.ade20k": "segmenter@vit-s:reduction=cts:shared=103",
    "cts.cityscapes": "segmenter@vit-s:train_size=768:num_classes=19:reduction=cts:shared=336",
    "cts.pascal-context": "segmenter@vit-s:train_size=480:num_classes=60:reduction=cts:shared=90",
    "step.vit-b": "segmenter@vit-b:reduction=step",
    "step.dcts-vit-l": "segmenter@vit-l:reduction=step:exits=0",
    "step.vit-l": "segmenter@vit-l:reduction=step",
    "segformer++.hq": "segformer@mit-b5:head=mmseg:merging=hq",
    "segformer++.fast": "segformer@mit-b5:head=mmseg:merging=fast",
    "segformer++.2x2": "segformer@mit-b5:head=mmseg:merging=2x2",
}
