/* What the scorer does once a letter: finds a text's n-grams among a vectorizer's terms, weighs them, adds up the
   scores.

   scorer.py fills in the structs and calls the functions that are not static, through ctypes, with the GIL held: so
   nothing here needs a lock. Nothing is allocated; what a call writes is bounded by the number of terms. */

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { WORD, CHAR, CHAR_WB };              /* analyzer */
enum { NO_NORM, L1, L2 };                  /* norm */
enum { NO_LINK, SOFTMAX, SIGMOID, HUBER }; /* how scores become probabilities */
enum { TOGETHER = 64 };                    /* so many n-grams are looked up at once: their waits for memory overlap */
enum { OTHER = 0xFFFF };                   /* in `latin`: this letter becomes more than one, or none of Latin-1 */
enum { LONGEST = 4000 };                   /* text for which there is room on the stack */

/* Where an n-gram that is a term stands in a text. */
struct hit {
    int32_t column, begin, end;
};

/* A hash table. A place holds a hash's upper bits, and below them number + 1; or 0. The lower bits chose the place. */
struct index {
    uint64_t *places;
    uint64_t count; /* a power of 2, more than there are numbers, so that there is a 0 to end each search */
    uint64_t lower_bits;
};

/* A vectorizer with the weights that a classifier has for its terms.

   "Sums" are a number of terms, and behind it the scores. */
struct block {
    struct index terms;  /* a term's number is its column */
    struct index words;  /* some whose n-grams were added up before */
    double *parts;       /* (words, part_row): their sums; or NULL where those depend on the other words */
    const double *idf;   /* of each term, or NULL */
    const void *weights; /* (terms, weight_row), float or double */
    int32_t *counts;     /* of each term; all 0 between calls */
    int32_t *columns;    /* of the last text's distinct terms */
    double *values;      /* in these columns */
    uint64_t seed;       /* random, so that nobody can make n-grams of the same hash */
    double scale;        /* in a FeatureUnion */
    int32_t part_row, weight_row; /* numbers from one row to the next */
    int32_t analyzer, low, high, norm, score_count;
    int32_t shortest;    /* token */
    uint32_t separator;  /* what stands behind each token */
    bool binary, sublinear;
    bool adds_up;        /* what a term adds does not depend on the others */
    bool single_values, single_weights; /* float, not double */
    uint16_t latin[256]; /* what a letter of Latin-1 becomes: one letter, a blank between tokens or words, or OTHER */
};

struct model {
    struct block *blocks;
    const double *intercept;
    int32_t block_count, score_count, class_count, link;
    bool single; /* where all values and weights are float, scikit-learn's scores are too, and so are these */
};

/* Told of each n-gram that is a term; `to` is what the caller of each_term wants it to have. */
typedef void visitor(struct block *block, struct hit hit, void *to);

/* N-grams that wait to be looked up. */
struct pending {
    visitor *see;
    void *to;
    int32_t count;
    uint64_t hashes[TOGETHER];
    struct hit hits[TOGETHER];
};

static inline uint64_t step(uint64_t hash, uint32_t letter)
{
    hash = (hash ^ letter) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

/* Return the number of what has this hash, or -1. */
static inline int32_t find(const struct index *index, uint64_t hash)
{
    const uint64_t last = index->count - 1;
    for (uint64_t at = hash & last;; at = (at + 1) & last) {
        const uint64_t place = index->places[at];
        if (!place)
            return -1;
        if (!((place ^ hash) & ~index->lower_bits))
            return (int32_t)(place & index->lower_bits) - 1;
    }
}

static void insert(struct index *index, uint64_t hash, int32_t number)
{
    const uint64_t last = index->count - 1;
    uint64_t at = hash & last;
    while (index->places[at])
        at = (at + 1) & last;
    index->places[at] = (hash & ~index->lower_bits) | (uint64_t)(number + 1);
}

static inline void prefetch(const void *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch((const char *)from + at);
}

static inline void prefetch_place(const struct index *index, uint64_t hash)
{
    __builtin_prefetch(&index->places[hash & (index->count - 1)]);
}

static inline const void *weights_of(const struct block *block, int32_t column)
{
    const size_t row = (size_t)column * (size_t)block->weight_row;
    return block->single_weights ? (const void *)((const float *)block->weights + row)
                                 : (const void *)((const double *)block->weights + row);
}

static inline void look_up(struct block *block, struct pending *pending)
{
    const size_t bytes = (size_t)block->score_count * (block->single_weights ? sizeof(float) : sizeof(double));
    int32_t found = 0;
    for (int32_t n = 0; n < pending->count; n++) {
        struct hit hit = pending->hits[n];
        hit.column = find(&block->terms, pending->hashes[n]);
        if (hit.column < 0)
            continue;
        pending->hits[found++] = hit;
        if (block->adds_up)
            prefetch(weights_of(block, hit.column), bytes);
        else
            __builtin_prefetch(&block->counts[hit.column], 1);
        if (block->idf)
            __builtin_prefetch(&block->idf[hit.column]);
    }
    for (int32_t n = 0; n < found; n++)
        pending->see(block, pending->hits[n], pending->to);
    pending->count = 0;
}

static inline void start(struct pending *pending, visitor *see, void *to)
{
    pending->see = see, pending->to = to, pending->count = 0;
}

static inline void visit(struct block *block, struct pending *pending, uint64_t hash, int32_t begin, int32_t end)
{
    prefetch_place(&block->terms, hash);
    pending->hashes[pending->count] = hash;
    pending->hits[pending->count++] = (struct hit){0, begin, end};
    if (pending->count == TOGETHER)
        look_up(block, pending);
}

/* Each n-gram of tokens, with a blank between two. */
static inline void each_of_tokens(struct block *block, const uint32_t *text, int32_t length, struct pending *pending)
{
    for (int32_t begin = 0, next; begin < length; begin = next) {
        uint64_t hash = block->seed;
        int32_t tokens = 0;
        next = length;
        for (int32_t at = begin; at < length; at++) {
            if (text[at] != block->separator) {
                hash = step(hash, text[at]);
                continue;
            }
            if (++tokens >= block->low)
                visit(block, pending, hash, begin, at);
            if (tokens == 1)
                next = at + 1;
            if (tokens == block->high)
                break;
            hash = step(hash, ' ');
        }
    }
}

/* Each n-gram of the letters between first and last. */
static inline void each_of_letters(
    struct block *block, const uint32_t *text, int32_t first, int32_t last, struct pending *pending)
{
    for (int32_t begin = first; block->low <= last - begin; begin++) {
        const int32_t end = block->high < last - begin ? begin + block->high : last;
        uint64_t hash = block->seed;
        for (int32_t at = begin; at < end; at++) {
            hash = step(hash, text[at]);
            if (at + 1 - begin >= block->low)
                visit(block, pending, hash, begin, at + 1);
        }
    }
}

/* Find the end of the word that begins with the blank at first, and return the hash of all with the blank behind it,
   which there always is. */
static inline uint64_t whole_word(const struct block *block, const uint32_t *text, int32_t first, int32_t *last)
{
    uint64_t hash = step(block->seed, text[first]);
    for (*last = first + 1; text[*last] != ' '; ++*last)
        hash = step(hash, text[*last]);
    return step(hash, text[(*last)++]);
}

/* Each n-gram of a word with the blanks at either end; one that is too short for any counts once, as a whole. */
static inline void each_of_word(
    struct block *block, const uint32_t *text, int32_t first, int32_t last, uint64_t whole, struct pending *pending)
{
    if (last - first < block->low)
        visit(block, pending, whole, first, last);
    else
        each_of_letters(block, text, first, last, pending);
}

static inline void each_of_words(struct block *block, const uint32_t *text, int32_t length, struct pending *pending)
{
    for (int32_t first = 0, last; first + 1 < length; first = last - 1) {
        const uint64_t whole = whole_word(block, text, first, &last);
        each_of_word(block, text, first, last, whole, pending);
    }
}

static inline void each_term(struct block *block, const uint32_t *text, int32_t length, visitor *see, void *to)
{
    struct pending pending;
    start(&pending, see, to);
    if (block->analyzer == WORD)
        each_of_tokens(block, text, length, &pending);
    else if (block->analyzer == CHAR)
        each_of_letters(block, text, 0, length, &pending);
    else
        each_of_words(block, text, length, &pending);
    look_up(block, &pending);
}

/* Put the terms, one after another, into the block's empty index. */
void learn_terms(struct block *block, const uint32_t *terms, const int32_t *lengths, int32_t count)
{
    for (int32_t column = 0; column < count; terms += lengths[column++]) {
        uint64_t hash = block->seed;
        for (int32_t letter = 0; letter < lengths[column]; letter++)
            hash = step(hash, terms[letter]);
        insert(&block->terms, hash, column);
    }
}

struct hits {
    struct hit *first;
    int32_t count, room;
};

static void note(struct block *block, struct hit hit, void *to)
{
    struct hits *hits = to;
    (void)block;
    if (hits->count < hits->room)
        hits->first[hits->count] = hit;
    hits->count++;
}

/* Return how many n-grams of the text are terms, and write where they stand, as many as there is room for. */
int32_t locate(struct block *block, const uint32_t *text, int32_t length, struct hit *first, int32_t room)
{
    struct hits hits = {first, 0, room};
    each_term(block, text, length, note, &hits);
    return hits.count;
}

static void count(struct block *block, struct hit hit, void *to)
{
    int32_t *distinct = to;
    if (!block->counts[hit.column]++)
        block->columns[(*distinct)++] = hit.column;
}

static inline double rounded(bool single, double value)
{
    return single ? (double)(float)value : value;
}

static int by_number(const void *one, const void *other)
{
    const int32_t a = *(const int32_t *)one, b = *(const int32_t *)other;
    return (a > b) - (a < b);
}

/* Return how many distinct terms the text has; their columns and values are the block's then, as the vectorizer's
   transform has them. */
int32_t transform(struct block *block, const uint32_t *text, int32_t length)
{
    const bool single = block->single_values;
    int32_t distinct = 0;
    double size = 0;
    each_term(block, text, length, count, &distinct);
    if (single) /* sums of float depend on the order, which is the columns' in scikit-learn */
        qsort(block->columns, (size_t)distinct, sizeof *block->columns, by_number);
    for (int32_t n = 0; n < distinct; n++) {
        const int32_t column = block->columns[n];
        double value = block->binary ? 1 : block->counts[column];
        block->counts[column] = 0;
        if (block->sublinear)
            value = rounded(single, rounded(single, log(value)) + 1);
        if (block->idf)
            value = rounded(single, value * block->idf[column]);
        block->values[n] = value;
        size += block->norm == L2 ? rounded(single, value * value) : fabs(value);
    }
    const double divisor = block->norm == NO_NORM || size == 0 ? 1 : block->norm == L2 ? sqrt(size) : size;
    for (int32_t n = 0; n < distinct; n++)
        block->values[n] = rounded(single, rounded(single, block->values[n] / divisor) * block->scale);
    return distinct;
}

/* Add a value times the weights of a column. */
static inline void add_weights(const struct block *block, int32_t column, double value, double *scores)
{
    const double *doubles = weights_of(block, column);
    const float *singles = weights_of(block, column);
    if (!block->single_weights)
        for (int32_t k = 0; k < block->score_count; k++)
            scores[k] += value * doubles[k];
    else if (!block->single_values)
        for (int32_t k = 0; k < block->score_count; k++)
            scores[k] += value * singles[k];
    else
        for (int32_t k = 0; k < block->score_count; k++)
            scores[k] = (float)scores[k] + (float)value * singles[k];
}

static void add_term(struct block *block, struct hit hit, void *to)
{
    double *sums = to;
    sums[0]++;
    add_weights(block, hit.column, block->idf ? block->idf[hit.column] * block->scale : block->scale, sums + 1);
}

static inline double *part_of(const struct block *block, int32_t word)
{
    return block->parts + (size_t)word * (size_t)block->part_row;
}

/* Put words, a blank before, between and behind them, into the block's empty index, and their sums into its parts,
   which are 0. */
void learn_words(struct block *block, const uint32_t *text, int32_t length)
{
    int32_t word = 0;
    for (int32_t first = 0, last; first + 1 < length; first = last - 1, word++) {
        struct pending pending;
        start(&pending, add_term, part_of(block, word));
        const uint64_t whole = whole_word(block, text, first, &last);
        each_of_word(block, text, first, last, whole, &pending);
        look_up(block, &pending);
        insert(&block->words, whole, word);
    }
}

/* Add what words say: the sums of those that were learnt, else their n-grams. */
static void add_words(struct block *block, const uint32_t *text, int32_t length, double *sums)
{
    struct pending pending;
    start(&pending, add_term, sums);
    for (int32_t first = 0, last; first + 1 < length;) {
        struct { uint64_t hash; int32_t first, last, number; } words[TOGETHER];
        int32_t count = 0;
        for (; first + 1 < length && count < TOGETHER; first = last - 1, count++) {
            words[count].hash = whole_word(block, text, first, &last);
            words[count].first = first, words[count].last = last;
            prefetch_place(&block->words, words[count].hash);
        }
        for (int32_t n = 0; n < count; n++) {
            words[n].number = find(&block->words, words[n].hash);
            if (words[n].number >= 0)
                prefetch(part_of(block, words[n].number), (size_t)(1 + block->score_count) * sizeof *sums);
            else
                each_of_word(block, text, words[n].first, words[n].last, words[n].hash, &pending);
        }
        for (int32_t n = 0; n < count; n++)
            if (words[n].number >= 0) {
                const double *part = part_of(block, words[n].number);
                for (int32_t k = 0; k < 1 + block->score_count; k++)
                    sums[k] += part[k];
            }
    }
    look_up(block, &pending);
}

/* Add what the text says to the sums. */
void add(struct block *block, const uint32_t *text, int32_t length, double *sums)
{
    if (block->parts)
        add_words(block, text, length, sums);
    else if (block->adds_up)
        each_term(block, text, length, add_term, sums);
    else {
        const int32_t distinct = transform(block, text, length);
        for (int32_t n = 0; n < distinct; n++)
            add_weights(block, block->columns[n], block->values[n], sums + 1);
        sums[0] += distinct;
    }
}

/* Write the text's tokens, a blank behind each, or its words, with one before the first too; return the length of that,
   or -1 where a letter is OTHER. */
static int32_t separate(const struct block *block, const uint8_t *latin, int32_t length, uint32_t *text)
{
    int32_t end = 0;
    if (block->analyzer == CHAR_WB)
        text[end++] = ' ';
    int32_t begin = end; /* of the token that is being written */
    for (int32_t at = 0; at <= length; at++) {
        const uint32_t letter = at < length ? block->latin[latin[at]] : ' ';
        if (letter == OTHER)
            return -1;
        if (letter != ' ')
            text[end++] = letter;
        else if (end - begin < block->shortest)
            end = begin;
        else
            text[end++] = ' ', begin = end;
    }
    return end;
}

/* Return the probability that a score by itself stands for, by scipy's expit or as SGDClassifier has it. */
static double probability(const struct model *model, double score)
{
    if (model->link == HUBER)
        return score < -1 ? 0 : score > 1 ? 1 : (score + 1) / 2;
    return model->single ? 1 / (1 + expf((float)-score)) : 1 / (1 + exp(-score));
}

/* Take the sums of all blocks, in 1 + 2 * class_count numbers; add the intercept to the scores, and write behind them
   each class's probability, as scikit-learn's predict_proba has it, but for NO_LINK. Return the best class's position.
   Where there is one score for two classes, the second one's, there is one for each then. */
int32_t conclude(const struct model *model, double *sums)
{
    const int32_t count = model->score_count;
    double *scores = sums + 1, *probabilities = scores + model->class_count, total = 0;
    int32_t best = 0;
    for (int32_t k = 0; k < count; k++) {
        scores[k] = rounded(model->single, scores[k] + model->intercept[k]);
        if (scores[k] > scores[best] || (isnan(scores[k]) && !isnan(scores[best]))) /* as numpy's argmax */
            best = k;
    }
    for (int32_t k = 0; k < count && model->link != NO_LINK; k++) {
        probabilities[k] = model->link == SOFTMAX ? exp(scores[k] - scores[best]) : probability(model, scores[k]);
        total += probabilities[k];
    }
    if (count < model->class_count) {
        scores[1] = scores[0], scores[0] = -scores[0];
        probabilities[1] = probabilities[0], probabilities[0] = 1 - probabilities[1];
        return scores[1] > 0;
    }
    for (int32_t k = 0; k < count; k++)
        probabilities[k] = total ? probabilities[k] / total : 1.0 / count;
    return best;
}

/* Do all of it for a text in Latin-1, with sums that are 0; return -1 where it is too long, or a letter is OTHER. */
int32_t judge_latin(struct model *model, const uint8_t *latin, int32_t length, double *sums)
{
    uint32_t text[LONGEST + 2];
    if (length > LONGEST)
        return -1;
    for (int32_t n = 0; n < model->block_count; n++) {
        const int32_t end = separate(&model->blocks[n], latin, length, text);
        if (end < 0)
            return -1;
        add(&model->blocks[n], text, end, sums);
    }
    return conclude(model, sums);
}
