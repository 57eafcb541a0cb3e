"""Usual causes of a run's warnings, and what to do about each, by the code of the warning.

A sentence that says only what was seen leaves its reader to guess; `Record.warn` puts the cause behind it.
"""

BY_CODE = {
    # Of the model as it was built.
    "untrained_head": (
        "Such scores are those of random answers, whatever the model knows: train the head (full, lora, head, probe), "
        "or prompt the model by its own output head"
    ),
    "weights_not_loaded": (
        "Right for a test, or for a model from scratch, which method: scratch says; else set model.weights: pretrained"
    ),
    "weights_missing": (
        "Usually the checkpoint is of another architecture, or names its weights otherwise: what was pretrained is not "
        "what is trained here"
    ),
    # Of the data as they were encoded.
    "texts_cut": (
        "What stands behind the cut is never read: raise max_length, as far as the model goes, or say how much was read"
    ),
    "no_known_terms": (
        "Method tfidf reads words: usually the scored texts are of another language or subject, words are not "
        "separated by blanks, as in Chinese, or n-grams are longer than the texts"
    ),
    "answers_cut": (
        "What was cut can't be learned, or not be given: raise what is named, or max_length (of spans also "
        "spans.doc_stride, the overlap of two windows)"
    ),
    "offsets_not_tokens": (
        "Usually characters were counted where tokens are expected, or the positions are those of another text: a "
        "model that learns them points to wrong places"
    ),
    # Of the first step.
    "first_loss_high": (
        "Usual causes: labels in another order than the head's outputs, a loss that is summed and not averaged, or "
        "inputs of the head that are far too large, for which a warm-up or a lower rate helps"
    ),
    "first_loss_low": (
        "Usual causes: the text holds its label, the head was trained before, or the loss also counts pads or prompts: "
        "look at some inputs with their labels"
    ),
    # Of predictions and scores.
    "within_chance": (
        "Usual causes: the prompt or its answers do not suit the model, its chat template is missing, or the model is "
        "too small for the task: look at some prompts with their answers before comparing with this score"
    ),
    "kept_head_within_chance": (
        "The checkpoint brought its own head. Usual causes: its outputs stand for other labels, or for these in "
        "another order; it was trained for another task or language; or it learned texts in another form"
    ),
    "one_label_predicted": (
        "Usual causes: in training, a learning rate too high or too low, too few steps, or labels that are not "
        "balanced; in prompting, one answer that is likelier whatever the text (prompting.calibration); where several "
        "labels are allowed, a threshold that none reaches. A good score then says only how frequent the label is"
    ),
    "constant_prediction": (
        "Usual causes: a learning rate too high, too few steps, or targets on another scale than the head's outputs; "
        "correlations of a constant are not defined"
    ),
    "no_entities_predicted": (
        "Usual causes: too few steps, since most words are O, or a learning rate too high; token accuracy looks good "
        "even so"
    ),
    "no_answers": (
        "Usual causes: training data with too many questions without an answer, or an answer format that the model "
        "does not know: look at some prompts with their answers"
    ),
    "constant_answer": "Usual causes: a learning rate too high, too few steps, or a prompt that the model can't read",
    "unreadable_answers": (
        "The score then measures the form of the answers, too: look at some of them, and at prompting and its labels"
    ),
    "texts_cut_at_limit": "Raise prompting.max_new_tokens, or see why the model does not end its texts",
    "not_better_than_baseline": (
        "Such a score does not show that the texts were used: if trained, try more steps or data or another learning "
        "rate; if prompted, look at some prompts with their answers; of few examples, score more"
    ),
    "worse_than_before": (
        "Usual causes: a learning rate too high, too many epochs, or other data or another prompt in training than in "
        "scoring"
    ),
}


def explained(code: str, sentence: str) -> str:
    """Return the sentence of a warning with its usual causes and what to do; as it is where none are known."""
    cause = BY_CODE.get(code)
    if cause is None or sentence.endswith(cause):
        return sentence
    return f"{sentence.rstrip('.')}. {cause}"
