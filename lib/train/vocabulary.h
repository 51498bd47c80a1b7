/*
 * vocabulary.h - whether a model understands the tokens that a tokenizer makes, and has not seen the text
 * it is tested on.
 *
 * Token ids are numbers without a meaning of their own: a model given those of another tokenizer answers,
 * and its loss says nothing. A model folder tells its tokenizer by distilld.json (format/lineage.h), or
 * by tokenizer.json; one that has neither is believed if its vocabulary has the tokenizer's size, padded
 * by less than KD_VOCAB_PADDING_MAX. Blocks on the disk.
 *
 * Threads: any. Blocks on the disk.
 */
#ifndef KD_TRAIN_VOCABULARY_H
#define KD_TRAIN_VOCABULARY_H

#include "data/tokenizer.h"
#include "format/lineage.h"

/* KD_ERR_INVALID names the folder's tokenizer and the one that was expected. */
KD_MUST_USE kd_status kd_vocabulary_check(const char *folder, const kd_tokenizer *tokenizer);

/*
 * Whether a model may have been trained on text that `split` holds out: warns with both splits, and
 * returns true. Nothing is held out, nothing known of the model, or the same split: false.
 */
bool kd_vocabulary_warn_of_split(const char *who,
                                 const char *folder,
                                 const kd_lineage_split *split);

#endif
