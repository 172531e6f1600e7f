#!/usr/bin/env python3
"""Tiny ONNX models for the tests: one per output form, and broken ones.

Their numbers are plain functions of the picture (mostly of its mean brightness), so that the tests
can say what must come out. Needs: onnx, numpy. The results are committed.
"""

from pathlib import Path

import numpy as np
from onnx import FunctionProto, GraphProto, TensorProto, checker, helper, numpy_helper, save_model

HERE = Path(__file__).parent
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
WIDTH, HEIGHT = 32, 40
PICTURE = ["n", 3, HEIGHT, WIDTH]


def constant(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.array(values, dtype), name)


def value(name, shape, element=FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


def write(name, nodes, outputs, constants=(), inputs=None, domains=(), check=True):
    graph = helper.make_graph(
        nodes, name, inputs or [value("image", PICTURE)], outputs, list(constants)
    )
    opsets = [helper.make_opsetid("", 17)] + [helper.make_opsetid(d, 1) for d in domains]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="lookbook")
    if check:
        checker.check_model(model)
    path = HERE / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return model


def weights():
    return constant("weights", np.random.default_rng(5).normal(0, 0.5, (6, 3, 4, 4)))


def embedders():
    conv = helper.make_node("Conv", ["image", "weights"], ["map"], strides=[4, 4])
    pool = [
        conv,
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    write("embed", pool, [value("embedding", ["n", 6])], [weights()])
    write("embed_map", [conv], [value("map", ["n", 6, HEIGHT // 4, WIDTH // 4])], [weights()])
    for batch in (1, 3):
        picture = value("image", [batch, 3, HEIGHT, WIDTH])
        out = value("embedding", [batch, 6])
        write(f"embed_fixed_{batch}", pool, [out], [weights()], [picture])

    # NHWC bytes in: what a quantised model takes.
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["embedding"], axes=[1, 2], keepdims=0),
    ]
    picture = value("image", ["n", HEIGHT, WIDTH, 3], TensorProto.UINT8)
    write("embed_bytes", nodes, [value("embedding", ["n", 3])], inputs=[picture])
    # Half precision in and out.
    nodes = [helper.make_node("ReduceMean", ["image"], ["embedding"], axes=[2, 3], keepdims=0)]
    half = TensorProto.FLOAT16
    write("embed_half", nodes, [value("embedding", ["n", 3], half)], inputs=[value("image", PICTURE, half)])

    tokens()
    without_class_token()
    clip()
    densenet()

    # A vector that does not depend on the picture.
    nodes = pool[:2] + [
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Mul", ["flat", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "always"], ["embedding"]),
    ]
    constants = [weights(), constant("nothing", [0.0]), constant("always", [[1, 2, 3, 4, 5, 6]])]
    write("embed_same", nodes, [value("embedding", ["n", 6])], constants)

    nodes = pool + [
        helper.make_node("Sub", ["embedding", "embedding"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["nan"]),
    ]
    write("embed_nan", nodes, [value("nan", ["n", 6])], [weights()])
    write("embed_zero", nodes[:-1], [value("zero", ["n", 6])], [weights()])
    nodes = pool[:2] + [
        helper.make_node("Shape", ["map"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["floats"], to=FLOAT),
    ]
    write("embed_rank", nodes, [value("floats", [4])], [weights()])
    nodes = pool + [helper.make_node("Cast", ["embedding"], ["integers"], to=INT64)]
    write("embed_integers", nodes, [value("integers", ["n", 6], INT64)], [weights()])
    nodes = pool + [helper.make_node("Cast", ["embedding"], ["doubles"], to=TensorProto.DOUBLE)]
    write("embed_double", nodes, [value("doubles", ["n", 6], TensorProto.DOUBLE)], [weights()])
    nodes = pool + [helper.make_node("Cast", ["embedding"], ["flags"], to=TensorProto.BOOL)]
    write("embed_flags", nodes, [value("flags", ["n", 6], TensorProto.BOOL)], [weights()])
    # Another vector in every run, as with dropout left on.
    nodes = pool + [
        helper.make_node("RandomNormalLike", ["embedding"], ["noise"]),
        helper.make_node("Add", ["embedding", "noise"], ["noisy"]),
    ]
    write("embed_random", nodes, [value("noisy", ["n", 6])], [weights()])
    # The vector with axes of size 1, and without a batch axis.
    for name, row, shape in [("before", [-1, 1, 1, 6], ["n", 1, 1, 6]), ("after", [-1, 6, 1, 1], ["n", 6, 1, 1]), ("flat", [6], [6])]:
        nodes = pool[:2] + [helper.make_node("Reshape", ["pooled", "row"], ["embedding"])]
        picture = value("image", [1, *PICTURE[1:]] if name == "flat" else PICTURE)
        write(f"embed_ones_{name}", nodes, [value("embedding", shape)], [weights(), constant("row", row, np.int64)], [picture])
    # Graphs of one photo whose input takes any number, and of three photos.
    for batch in (1, 3):
        nodes = pool[:2] + [helper.make_node("Reshape", ["pooled", "row"], ["embedding"])]
        constants = [weights(), constant("row", [batch, 6], np.int64)]
        write(f"embed_reshape_{batch}", nodes, [value("embedding", [batch, 6])], constants)
    second = value("other", [1])
    nodes = pool[:2] + [
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Add", ["flat", "other"], ["embedding"]),
    ]
    write("embed_two_inputs", nodes, [value("embedding", ["n", 6])], [weights()], [value("image", PICTURE), second])


def tokens():
    """As a vision transformer: a class token (what `embed` gives), then one token for each place of the map."""
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["map"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Reshape", ["map", "flat"], ["places"]),
        helper.make_node("Reshape", ["pooled", "flat"], ["class"]),
        helper.make_node("Concat", ["class", "places"], ["channels"], axis=2),
        helper.make_node("Transpose", ["channels"], ["last_hidden_state"], perm=[0, 2, 1]),
    ]
    out = value("last_hidden_state", ["n", 1 + HEIGHT * WIDTH // 16, 6])
    write("embed_tokens", nodes, [out], [weights(), constant("flat", [0, 6, -1], np.int64)])


def without_class_token():
    """As SigLIP and Swin: tokens, or a map with channels last, of the places alone; beside them the model's own vector.

    SigLIP's is another than the mean of its tokens, Swin's is that mean.
    """
    conv = helper.make_node("Conv", ["image", "weights"], ["map"], strides=[4, 4])
    highest = [
        helper.make_node("GlobalMaxPool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["signed"]),
        helper.make_node("Neg", ["signed"], ["pooler_output"]),
    ]
    nodes = [
        helper.make_node("Reshape", ["map", "flat"], ["places"]),
        helper.make_node("Transpose", ["places"], ["last_hidden_state"], perm=[0, 2, 1]),
    ]
    vector = value("pooler_output", ["n", 6])
    # And for pictures of any size, whose tokens nobody can count before a run.
    of_any_size = value("image", ["n", 3, "h", "w"])
    for name, count, picture in [
        ("embed_siglip", HEIGHT * WIDTH // 16, value("image", PICTURE)),
        ("embed_siglip_dynamic", "t", of_any_size),
    ]:
        tokens = value("last_hidden_state", ["n", count, 6])
        constants = [weights(), constant("flat", [0, 6, -1], np.int64)]
        write(name, [conv, *highest, *nodes], [tokens, vector], constants, [picture])
    nodes = [
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["pooler_output"]),
        helper.make_node("Transpose", ["map"], ["last_hidden_state"], perm=[0, 2, 3, 1]),
    ]
    places = value("last_hidden_state", ["n", HEIGHT // 4, WIDTH // 4, 6])
    write("embed_swin", [conv, *nodes], [places, vector], [weights()])


def clip():
    """As a whole CLIP: text inputs beside the picture. The image's vector is multiplied by the mean of the tokens that the mask keeps."""
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["map"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["floats"], to=FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["text_embeds"], axes=[1], keepdims=1),
        helper.make_node("ReduceMean", ["text_embeds"], ["factor"], keepdims=0),
        helper.make_node("Mul", ["flat", "factor"], ["image_embeds"]),
    ]
    inputs = [value("input_ids", ["t", 4], INT64), value("image", PICTURE), value("attention_mask", ["t", 4], INT64)]
    outputs = [value("text_embeds", ["t", 1]), value("image_embeds", ["n", 6])]
    write("embed_clip", nodes, outputs, [weights()], inputs)


def densenet():
    """The form of DenseNet121 without its classifier: 512 x 512 in, a feature map [n, 1024, 16, 16] out."""
    kernel = np.random.default_rng(9).normal(0, 0.5, (1024, 3, 1, 1))
    nodes = [
        helper.make_node("AveragePool", ["input"], ["small"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Conv", ["small", "kernel"], ["map"]),
        helper.make_node("Relu", ["map"], ["features"]),
    ]
    picture = value("input", ["n", 3, 512, 512])
    write("densenet", nodes, [value("features", ["n", 1024, 16, 16])], [constant("kernel", kernel)], [picture])


def slow():
    """Runs for hours unless it is stopped: a loop around a small product of matrices."""
    size = 48
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "turn"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [value("step", [], INT64), value("go", [], TensorProto.BOOL), value("state", [size, size])],
        [value("go_on", [], TensorProto.BOOL), value("next", [size, size])],
    )
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["start", "mean"], ["state0"]),
        helper.make_node("Loop", ["steps", "yes", "state0"], ["last"], body=body),
        helper.make_node("ReduceMean", ["last"], ["embedding"], axes=[0], keepdims=0),
        helper.make_node("Unsqueeze", ["embedding", "zero"], ["out"]),
    ]
    constants = [
        constant("zero", [0], np.int64),
        constant("steps", 10**12, np.int64),
        constant("yes", True, bool),
    ]
    ramp = [
        helper.make_node("ConstantOfShape", ["square"], ["start"], value=constant("one", [1.0])),
        helper.make_node("EyeLike", ["start"], ["turn"]),
    ]
    constants.append(constant("square", [size, size], np.int64))
    write("slow", ramp + nodes, [value("out", [1, size])], constants, [value("image", [1, *PICTURE[1:]])])


def brightness(shape):
    """Nodes that give each photo's mean as a tensor of `shape`, which starts with -1."""
    return [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "ones"], ["bright"]),
    ], constant("ones", shape, np.int64)


# Boxes in input pixels: cx, cy, w, h. The second hides behind the first; the fourth is the same
# place in another class; the fifth reaches beyond the input; the sixth scores too little.
BOXES = [
    [10, 12, 8, 16], [11, 12, 8, 16], [24, 30, 6, 8], [10, 12, 8, 16], [31, 39, 10, 10], [5, 5, 4, 4],
]
SCORES = [
    [0.9, 0.1, 0.0], [0.8, 0.1, 0.0], [0.1, 0.7, 0.0], [0.0, 0.6, 0.1], [0.5, 0.1, 0.2], [0.05, 0.0, 0.0],
]


FIRST = constant("first", [0], np.int64)


def renamed(nodes, *names):
    """`nodes`; each of the outputs `names` is called `all_` and its name."""
    copies = [helper.make_node(n.op_type, n.input, [f"all_{o}" if o in names else o for o in n.output]) for n in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.attribute.extend(node.attribute)
    return copies


def first_photo(nodes, names):
    """`nodes` with the first photo's row of each output alone; needs the constant `FIRST`."""
    gathers = [helper.make_node("Gather", [f"all_{name}", "first"], [name], axis=0) for name in names]
    return renamed(nodes, *names) + gathers


def detectors():
    boxes, scores = np.array(BOXES, np.float32), np.array(SCORES, np.float32)
    # Scores are those above times the photo's mean, so white photos keep them.
    nodes, ones = brightness([-1, 1, 1])
    v8 = nodes + [
        helper.make_node("Mul", ["scores", "bright"], ["scaled"]),
        helper.make_node("Mul", ["bright", "nothing"], ["zero"]),
        helper.make_node("Add", ["boxes", "zero"], ["spread"]),
        helper.make_node("Concat", ["spread", "scaled"], ["out"], axis=1),
    ]
    constants = [ones, constant("boxes", boxes.T[None]), constant("scores", scores.T[None]), constant("nothing", [0.0])]
    write("yolo_v8", v8, [value("out", ["n", 7, 6])], constants)
    # Segmentation: 32 mask coefficients after the scores, far beyond any score, and 32 masks of a quarter of the input's size.
    coefficients = np.random.default_rng(4).normal(0, 9, (1, 32, len(BOXES)))
    masks = helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[4, 4], strides=[4, 4])
    masks = [masks, helper.make_node("Conv", ["small", "kernel"], ["output1"])]
    masked = value("output1", ["n", 32, HEIGHT // 4, WIDTH // 4])
    kernel = constant("kernel", np.random.default_rng(4).normal(0, 1, (32, 3, 1, 1)))
    segments = renamed(v8, "out") + [
        helper.make_node("Add", ["coefficients", "zero"], ["each"]),
        helper.make_node("Concat", ["all_out", "each"], ["out"], axis=1),
    ]
    weighed = constants + [constant("coefficients", coefficients)]
    write("yolo_v8_segments", segments + masks, [value("out", ["n", 39, 6]), masked], weighed + [kernel])
    # The outputs are of one photo though the input takes any number; the last two axes are exchanged.
    write("yolo_v8_one", first_photo(v8, ["out"]), [value("out", [1, 7, 6])], constants + [FIRST])
    exchanged = renamed(v8, "out") + [helper.make_node("Transpose", ["all_out"], ["out"], perm=[0, 2, 1])]
    write("yolo_v8_exchanged", exchanged, [value("out", ["n", 6, 7])], constants)
    logits = [constant("scores", 8 * (scores.T[None] - 0.5)) if c.name == "scores" else c for c in constants]
    write("yolo_v8_logits", v8, [value("out", ["n", 7, 6])], logits)

    # Candidates that outnumber the classes, as those of a real export do.
    many = [ones, constant("boxes", np.tile(boxes.T[None], 10)), constant("scores", np.tile(scores.T[None], 10)), constant("nothing", [0.0])]
    write("yolo_v8_many", v8, [value("out", ["n", 7, 60])], many)

    nodes, ones = brightness([-1, 1, 1])
    v5 = nodes + [
        helper.make_node("Mul", ["objectness", "bright"], ["scaled"]),
        helper.make_node("Mul", ["bright", "nothing"], ["zero"]),
        helper.make_node("Add", ["boxes", "zero"], ["spread"]),
        helper.make_node("Add", ["classes", "zero"], ["certain"]),
        helper.make_node("Concat", ["spread", "scaled", "certain"], ["out"], axis=2),
    ]
    best = scores.max(axis=1, keepdims=True)
    constants = [
        ones, constant("boxes", boxes[None]), constant("objectness", best[None]),
        constant("classes", (scores / best)[None]), constant("nothing", [0.0]),
    ]
    write("yolo_v5", v5, [value("out", ["n", 6, 8])], constants)

    nodes, ones = brightness([-1, 1, 1])
    rest = 1 - scores.sum(axis=1, keepdims=True) * 0.95
    logits = np.log(np.concatenate([scores * 0.95, rest], axis=1) + 1e-6)
    size = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
    detr = nodes + [
        helper.make_node("Mul", ["bright", "nothing"], ["zero"]),
        helper.make_node("Add", ["logits0", "zero"], ["logits"]),
        helper.make_node("Add", ["boxes0", "zero"], ["boxes"]),
    ]
    constants = [ones, constant("logits0", logits[None]), constant("boxes0", (boxes / size)[None]), constant("nothing", [0.0])]
    write("detr", detr, [value("logits", ["n", 6, 4]), value("boxes", ["n", 6, 4])], constants)

    outputs = [value("logits", [1, 6, 4]), value("boxes", [1, 6, 4])]
    write("detr_one", first_photo(detr, ["logits", "boxes"]), outputs, constants + [FIRST])

    # RT-DETR: a sigmoid for each class, no "no object".
    scored = np.log((scores + 1e-6) / (1 - scores + 1e-6))
    constants = [ones, constant("logits0", scored[None]), constant("boxes0", (boxes / size)[None]), constant("nothing", [0.0])]
    write("detr_sigmoid", detr, [value("logits", ["n", 6, 3]), value("boxes", ["n", 6, 4])], constants)

    # Its scores instead of logits.
    chances = [constant("logits0", scores[None]) if c.name == "logits0" else c for c in constants]
    write("detr_chances", detr, [value("logits", ["n", 6, 3]), value("boxes", ["n", 6, 4])], chances)
    # Many queries, all of which pass: a sigmoid makes 0.5 of the first two classes, and so does a softmax.
    level = constant("logits0", np.tile([0, 0, -5], (1, 60, 1)))
    many = [level if c.name == "logits0" else c for c in constants if c.name != "boxes0"]
    many.append(constant("boxes0", np.tile(boxes / size, (10, 1))[None]))
    write("detr_many", detr, [value("logits", ["n", 60, 3]), value("boxes", ["n", 60, 4])], many)

    # Boxes in shares of the input where the family has pixels, and boxes far beyond the input.
    nodes, ones = brightness([-1, 1, 1])
    rest = [constant("scores", scores.T[None]), constant("nothing", [0.0])]
    write("yolo_v8_shares", v8, [value("out", ["n", 7, 6])], [ones, constant("boxes", (boxes / size).T[None]), *rest])
    flat = boxes * np.array([1, 1, 0, 1], np.float32)
    write("yolo_v8_flat", v8, [value("out", ["n", 7, 6])], [ones, constant("boxes", flat.T[None]), *rest])
    beyond = boxes + np.array([1.5 * WIDTH, HEIGHT, 0, 0], np.float32)
    write("yolo_v8_outside", v8, [value("out", ["n", 7, 6])], [ones, constant("boxes", beyond.T[None]), *rest])

    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)[[0, 2, 4]]
    vision = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["scores0", "mean"], ["scores"]),
        helper.make_node("Identity", ["labels0"], ["labels"]),
        helper.make_node("Identity", ["boxes0"], ["boxes"]),
    ]
    constants = [constant("boxes0", corners), constant("labels0", [1, 2, 1], np.int64), constant("scores0", [0.9, 0.7, 0.5])]
    outputs = [value("boxes", ["k", 4]), value("labels", ["k"], INT64), value("scores", ["k"])]
    write("torchvision", vision, outputs, constants, [value("image", PICTURE[1:])])
    none = [constant("boxes0", corners[:0]), constant("labels0", [], np.int64), constant("scores0", [])]
    write("torchvision_none", vision, outputs, none, [value("image", PICTURE[1:])])
    after_nms(corners)


def after_nms(corners):
    """Three boxes found, scores 0.9, 0.7 and 0.5 times the photo's mean, in the forms of exports with their own NMS."""
    classes, found = np.array([[0.0], [1.0], [0.0]]), np.array([[0.9], [0.7], [0.5]])

    def spread(names, batch):
        """Each constant plus 0 for each photo."""
        nodes, ones = brightness(batch)
        nodes.append(helper.make_node("Mul", ["bright", "nothing"], ["zero"]))
        return nodes + [helper.make_node("Add", [f"{name}0", "zero"], [name]) for name in names], [ones, constant("nothing", [0.0])]

    # [n, boxes, 6], and a row of zeros that fills up.
    nodes, constants = spread(["corners", "classes"], [-1, 1, 1])
    nodes += [
        helper.make_node("Mul", ["found", "bright"], ["scores"]),
        helper.make_node("Concat", ["corners", "scores", "classes"], ["rows"], axis=2),
        helper.make_node("Pad", ["rows", "padding"], ["output0"]),
    ]
    rows = [constant("corners0", corners[None]), constant("classes0", classes[None]), constant("found", found[None])]
    padding = constant("padding", [0, 0, 0, 0, 1, 0], np.int64)
    write("yolo_nms", nodes, [value("output0", ["n", 4, 6])], constants + rows + [padding])

    # The same with mask coefficients.
    segments = renamed(nodes, "output0") + [
        helper.make_node("Shape", ["all_output0"], ["shape"]),
        helper.make_node("Mul", ["shape", "wider"], ["wide"]),
        helper.make_node("Expand", ["seven", "wide"], ["coefficients"]),
        helper.make_node("Concat", ["all_output0", "coefficients"], ["output0"], axis=2),
        helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Concat", ["small", "small"], ["output1"], axis=1),
    ]
    extra = [constant("wider", [1, 1, 1], np.int64), constant("seven", [7.5])]
    outputs = [value("output0", ["n", 4, 12]), value("output1", ["n", 6, HEIGHT // 4, WIDTH // 4])]
    write("yolo_nms_segments", segments, outputs, constants + rows + [padding] + extra)

    # [boxes, 6]: one photo.
    nodes = nodes[:-1] + [helper.make_node("Reshape", ["rows", "six"], ["output0"])]
    write("yolo_nms_flat", nodes, [value("output0", ["k", 6])], constants + rows + [constant("six", [-1, 6], np.int64)])

    # [boxes, 7] of all photos: number of the photo, corners, class, score.
    nodes, constants = spread(["corners", "classes"], [-1, 1, 1])
    nodes += [
        helper.make_node("Mul", ["found", "bright"], ["scores"]),
        helper.make_node("Shape", ["mean"], ["photos"]),
        helper.make_node("Squeeze", ["photos"], ["count"]),
        helper.make_node("Range", ["first", "count", "step"], ["numbers"]),
        helper.make_node("Cast", ["numbers"], ["floats"], to=FLOAT),
        helper.make_node("Reshape", ["floats", "ones"], ["each"]),
        helper.make_node("Mul", ["scores", "nothing"], ["nil"]),
        helper.make_node("Add", ["each", "nil"], ["photo"]),
        helper.make_node("Concat", ["photo", "corners", "classes", "scores"], ["rows"], axis=2),
        helper.make_node("Reshape", ["rows", "seven"], ["output"]),
    ]
    extra = [constant("first", 0, np.int64), constant("step", 1, np.int64), constant("seven", [-1, 7], np.int64)]
    write("yolo_nms_seven", nodes, [value("output", ["k", 7])], constants + rows + extra)

    # RT-DETR as its authors export it: corners scaled to a second input, width and height of each photo.
    size = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
    nodes, constants = spread(["shares"], [-1, 1, 1])
    nodes += [
        helper.make_node("Cast", ["orig_target_sizes"], ["sizes"], to=FLOAT),
        helper.make_node("Concat", ["sizes", "sizes"], ["twice"], axis=1),
        helper.make_node("Unsqueeze", ["twice", "first"], ["scale"]),
        helper.make_node("Mul", ["shares", "scale"], ["boxes"]),
        helper.make_node("Squeeze", ["bright", "second"], ["light"]),
        helper.make_node("Mul", ["found", "light"], ["scores"]),
        helper.make_node("Mul", ["light", "nothing"], ["nil"]),
        helper.make_node("Add", ["number", "nil"], ["numbers"]),
        helper.make_node("Cast", ["numbers"], ["labels"], to=INT64),
    ]
    extra = [
        constant("shares0", (corners / size)[None]), constant("found", found.T), constant("number", classes.T),
        constant("first", [1], np.int64), constant("second", [2], np.int64),
    ]
    outputs = [value("labels", ["n", 3], INT64), value("boxes", ["n", 3, 4]), value("scores", ["n", 3])]
    inputs = [value("image", PICTURE), value("orig_target_sizes", ["n", 2], INT64)]
    write("rtdetr_sizes", nodes, outputs, constants + extra, inputs)


# One point per key point: the cell (row, column) of its highest heat, the heat there, and its offset in pixels.
STRIDE, ROWS, COLUMNS, POINTS = 8, 5, 4, 17


def pose_maps():
    """Heat [17, 5, 4] and offsets [34, 5, 4]: point k is hottest, 0.9 - k / 50, in cell k of the 20 (read by rows)."""
    heat = np.full((POINTS, ROWS, COLUMNS), 0.01, np.float32)
    offsets = np.full((2 * POINTS, ROWS, COLUMNS), 77, np.float32)
    for k in range(POINTS):
        row, column = divmod(k, COLUMNS)
        heat[k, row, column] = 0.9 - k / 50
        offsets[k, row, column] = 0.25 * k  # down
        offsets[k + POINTS, row, column] = -0.125 * k  # across
    return heat, offsets


def poses():
    heat, offsets = pose_maps()
    # Heat times the photo's mean, so white photos keep it.
    nodes, ones = brightness([-1, 1, 1, 1])
    nodes += [
        helper.make_node("Mul", ["heat", "bright"], ["heatmaps"]),
        helper.make_node("Mul", ["bright", "nothing"], ["zero"]),
        helper.make_node("Add", ["offset", "zero"], ["offsets"]),
    ]
    constants = [ones, constant("heat", heat[None]), constant("offset", offsets[None]), constant("nothing", [0.0])]
    outputs = [value("heatmaps", ["n", POINTS, ROWS, COLUMNS]), value("offsets", ["n", 2 * POINTS, ROWS, COLUMNS])]
    write("pose_heatmaps", nodes, outputs, constants)

    # As PoseNet gives it: channels last, logits; 32-bit integers in.
    logits = np.log(heat / (1 - heat)).transpose(1, 2, 0)
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["heat", "zero"], ["heatmaps"]),
        helper.make_node("Add", ["offset", "zero"], ["offsets"]),
    ]
    constants = [constant("heat", logits[None]), constant("offset", offsets.transpose(1, 2, 0)[None]), constant("nothing", [0.0])]
    outputs = [value("heatmaps", ["n", ROWS, COLUMNS, POINTS]), value("offsets", ["n", ROWS, COLUMNS, 2 * POINTS])]
    picture = value("image", ["n", HEIGHT, WIDTH, 3], TensorProto.INT32)
    write("pose_channels_last", nodes, outputs, constants, [picture])

    points = np.array([[k / 20, k / 40 + 0.3, (k + 1) / 20] for k in range(POINTS)], np.float32)[None, None]
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["points", "zero"], ["pose"]),
    ]
    picture = value("image", [1, HEIGHT, WIDTH, 3], TensorProto.UINT8)
    write("pose_movenet", nodes, [value("pose", [1, 1, POINTS, 3])], [constant("points", points), constants[-1]], [picture])


def broken():
    identity = helper.make_node("Frobnicate", ["image"], ["embedding"])
    write("unknown_operator", [identity], [value("embedding", PICTURE)], check=False)
    custom = helper.make_node("Frobnicate", ["image"], ["embedding"], domain="com.example")
    write("custom_domain", [custom], [value("embedding", PICTURE)], domains=["com.example"], check=False)
    context = helper.make_node("EPContext", ["image"], ["embedding"], domain="com.microsoft")
    write("ep_context", [context], [value("embedding", PICTURE)], domains=["com.microsoft"], check=False)

    model = write("external_data", [helper.make_node("Add", ["image", "big"], ["embedding"])],
                  [value("embedding", PICTURE)], [constant("big", np.ones((1, 3, 1, 1)))])
    save_model(model, str(HERE / "external_data.onnx"), save_as_external_data=True,
               location="external_data.bin", size_threshold=0)
    (HERE / "external_data.bin").unlink()


def varint(number):
    head = []
    while number >= 0x80:
        head.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*head, number])


def with_length(tag, content):
    return varint(tag) + varint(len(content)) + content


def disguised():
    """Weights in another file, which C++ protobuf sees and a plainer reader does not.

    The file is one that is there where the tests run.
    """
    elsewhere = TensorProto(name="bytes", data_type=TensorProto.UINT8, dims=[1, 3, 1, 1], data_location=1)
    for key, text in (("location", "Cargo.toml"), ("offset", "0"), ("length", "3")):
        elsewhere.external_data.add(key=key, value=text)
    add = [
        helper.make_node("Cast", ["bytes"], ["big"], to=FLOAT),
        helper.make_node("Add", ["image", "big"], ["embedding"]),
    ]
    out = [value("embedding", PICTURE)]
    model = write("external_data_two_graphs", add, out, check=False)
    path = HERE / "external_data_two_graphs.onnx"
    # It merges two graphs of one model, and the first one has the weights.
    first = GraphProto(initializer=[elsewhere]).SerializeToString()
    path.write_bytes(with_length(7 << 3 | 2, first) + path.read_bytes())

    # It drops what is above 32 bits of a tag.
    long = 1 << 32
    entries = [with_length(long | 13 << 3 | 2, e.SerializeToString()) for e in elsewhere.external_data]
    tensor = TensorProto()
    tensor.CopyFrom(elsewhere)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor = tensor.SerializeToString() + b"".join(entries) + varint(long | 14 << 3) + varint(1)
    graph = model.graph.SerializeToString() + with_length(5 << 3 | 2, tensor)
    model.ClearField("graph")
    model = model.SerializeToString() + with_length(7 << 3 | 2, graph)
    (HERE / "external_data_long_tags.onnx").write_bytes(model)

    # The default of an attribute of a function is a tensor, too.
    function = FunctionProto(name="Bytes", domain="local", output=["bytes"])
    function.opset_import.add(domain="", version=17)
    function.attribute_proto.add(name="weights", type=4).t.CopyFrom(elsewhere)
    function.node.add(op_type="Constant", output=["bytes"]).attribute.add(
        name="value", type=4, ref_attr_name="weights"
    )
    from_local = helper.make_node("Bytes", [], ["bytes"], domain="local")
    model = write("external_data_default", [from_local, *add], out, domains=["local"], check=False)
    model.functions.add().CopyFrom(function)
    (HERE / "external_data_default.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    embedders()
    slow()
    detectors()
    poses()
    broken()
    disguised()
