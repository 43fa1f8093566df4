/* What the scorer does once a letter: finds a text's n-grams among a vectorizer's terms, weighs them, adds up the scores.

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
enum { TOGETHER = 64 };                    /* n-grams that are looked up at once, so that their waits for memory overlap */
enum { OTHER = 0xFFFF };                   /* in `latin`: this letter alone becomes more than one, or none of Latin-1 */

/* Where an n-gram that is a term stands in a text. */
struct hit {
    int32_t column, begin, end;
};

/* A vectorizer with the weights that a classifier has for its terms. scorer.py has the same fields in the same order. */
struct block {
    uint64_t *slots;      /* a hash table of the terms: a hash's upper bits, and column + 1 in the lower ones; or 0 */
    const double *idf;    /* of each term, or NULL */
    const void *weights;  /* (terms, score_count), float or double */
    int32_t *counts;      /* of each term; all 0 between calls */
    int32_t *columns;     /* of the last text's distinct terms */
    double *values;       /* in these columns */
    uint64_t *words;      /* hashes of words that came lately, or NULL where what a word adds depends on the others */
    double *parts;        /* what each of them adds to the scores, and how many terms it has */
    uint64_t slot_count;  /* a power of 2 */
    uint64_t column_mask; /* the lower bits */
    uint64_t seed;        /* random, so that nobody can make n-grams of the same hash */
    uint64_t word_count;  /* a power of 2 */
    double scale;         /* in a FeatureUnion */
    int32_t analyzer, low, high, norm, score_count;
    int32_t shortest;     /* token, or word; 0 where `latin` is not for this block */
    uint32_t separator;   /* what stands behind each token */
    bool binary, sublinear;
    bool adds_up;         /* what a term adds does not depend on the others */
    bool single_values, single_weights;
    uint16_t latin[256];  /* what each letter of Latin-1 becomes: one letter, a blank between tokens or words, or OTHER */
};

struct model {
    struct block *blocks;
    const double *intercept;
    int32_t block_count, score_count, class_count, link;
    bool single;          /* where all values and weights are float, scikit-learn's sums are too, and so are these */
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

static inline int32_t find(const struct block *block, uint64_t hash)
{
    const uint64_t last = block->slot_count - 1;
    for (uint64_t at = hash & last;; at = (at + 1) & last) {
        const uint64_t slot = block->slots[at];
        if (!slot)
            return -1;
        if (!((slot ^ hash) & ~block->column_mask))
            return (int32_t)(slot & block->column_mask) - 1;
    }
}

static inline void prefetch(const void *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch((const char *)from + at);
}

static inline void look_up(struct block *block, struct pending *pending)
{
    const size_t row = (size_t)block->score_count * (block->single_weights ? sizeof(float) : sizeof(double));
    int32_t found = 0;
    for (int32_t n = 0; n < pending->count; n++) {
        struct hit hit = pending->hits[n];
        hit.column = find(block, pending->hashes[n]);
        pending->hits[found] = hit;
        if (hit.column < 0)
            continue;
        found++;
        if (block->adds_up)
            prefetch((const char *)block->weights + row * (size_t)hit.column, row);
        else
            __builtin_prefetch(&block->counts[hit.column], 1);
        if (block->idf)
            __builtin_prefetch(&block->idf[hit.column]);
    }
    for (int32_t n = 0; n < found; n++)
        pending->see(block, pending->hits[n], pending->to);
    pending->count = 0;
}

static inline void visit(struct block *block, struct pending *pending, uint64_t hash, int32_t begin, int32_t end)
{
    __builtin_prefetch(&block->slots[hash & (block->slot_count - 1)]);
    pending->hashes[pending->count] = hash;
    pending->hits[pending->count++] = (struct hit){0, begin, end};
    if (pending->count == TOGETHER)
        look_up(block, pending);
}

/* Each n-gram of tokens, with a blank between two. */
static inline void each_of_words(struct block *block, const uint32_t *text, int32_t length, struct pending *pending)
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
    for (int32_t begin = first; begin + block->low <= last; begin++) {
        const int32_t end = begin + block->high < last ? begin + block->high : last;
        uint64_t hash = block->seed;
        for (int32_t at = begin; at < end; at++) {
            hash = step(hash, text[at]);
            if (at + 1 - begin >= block->low)
                visit(block, pending, hash, begin, at + 1);
        }
    }
}

/* Find the end of the word that begins with the blank at first, and return the hash of both with the blank behind. */
static inline uint64_t whole_word(const struct block *block, const uint32_t *text, int32_t first, int32_t *last)
{
    uint64_t hash = step(block->seed, text[first]);
    for (*last = first + 1; text[*last] != ' '; ++*last)
        hash = step(hash, text[*last]);
    return step(hash, text[(*last)++]);
}

/* Each n-gram of a word with the blanks at either end; one that is too short for any counts once, as a whole. */
static inline void each_within_word(
    struct block *block, const uint32_t *text, int32_t first, int32_t last, uint64_t whole, struct pending *pending)
{
    if (last - first < block->low)
        visit(block, pending, whole, first, last);
    else
        each_of_letters(block, text, first, last, pending);
}

static inline void each_within_words(struct block *block, const uint32_t *text, int32_t length, struct pending *pending)
{
    for (int32_t first = 0, last; first + 1 < length; first = last - 1) {
        const uint64_t whole = whole_word(block, text, first, &last);
        each_within_word(block, text, first, last, whole, pending);
    }
}

static inline void each_term(struct block *block, const uint32_t *text, int32_t length, visitor *see, void *to)
{
    struct pending pending;
    pending.see = see, pending.to = to, pending.count = 0;
    if (block->analyzer == WORD)
        each_of_words(block, text, length, &pending);
    else if (block->analyzer == CHAR)
        each_of_letters(block, text, 0, length, &pending);
    else
        each_within_words(block, text, length, &pending);
    look_up(block, &pending);
}

/* Put the terms into the hash table, which must be all 0 and have more places than there are terms. */
void learn(struct block *block, const uint32_t *terms, const int32_t *lengths, int32_t count)
{
    const uint64_t last = block->slot_count - 1;
    for (int32_t column = 0; column < count; terms += lengths[column++]) {
        uint64_t hash = block->seed;
        for (int32_t letter = 0; letter < lengths[column]; letter++)
            hash = step(hash, terms[letter]);
        uint64_t at = hash & last;
        while (block->slots[at])
            at = (at + 1) & last;
        block->slots[at] = (hash & ~block->column_mask) | (uint64_t)(column + 1);
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
    int32_t distinct = 0;
    double size = 0;
    each_term(block, text, length, count, &distinct);
    if (block->single_values) /* sums of float depend on the order, which is the columns' in scikit-learn */
        qsort(block->columns, (size_t)distinct, sizeof *block->columns, by_number);
    for (int32_t n = 0; n < distinct; n++) {
        const int32_t column = block->columns[n];
        double value = block->binary ? 1 : block->counts[column];
        block->counts[column] = 0;
        if (block->sublinear)
            value = rounded(block->single_values, log(value)) + 1;
        if (block->idf)
            value *= block->idf[column];
        value = rounded(block->single_values, value);
        block->values[n] = value;
        size += block->norm == L2 ? rounded(block->single_values, value * value) : fabs(value);
    }
    const double divisor = block->norm == NO_NORM || size == 0 ? 1 : block->norm == L2 ? sqrt(size) : size;
    for (int32_t n = 0; n < distinct; n++)
        block->values[n] = rounded(block->single_values, block->values[n] / divisor) * block->scale;
    return distinct;
}

/* Add a value times the weights of a column. */
static inline void add_weights(const struct block *block, int32_t column, double value, double *scores)
{
    const size_t row = (size_t)column * (size_t)block->score_count;
    const float *singles = (const float *)block->weights + row;
    const double *doubles = (const double *)block->weights + row;
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
    double *part = to;
    add_weights(block, hit.column, block->idf ? block->idf[hit.column] * block->scale : block->scale, part);
    part[block->score_count]++;
}

/* Add what words say, each by itself, and count their terms behind the scores. */
static void add_words(struct block *block, const uint32_t *text, int32_t length, double *scores)
{
    const size_t row = (size_t)block->score_count + 1;
    for (int32_t first = 0, last; first + 1 < length;) {
        struct { uint64_t hash; int32_t first, last; } words[TOGETHER];
        int32_t count = 0;
        for (; first + 1 < length && count < TOGETHER; first = last - 1) {
            const uint64_t hash = whole_word(block, text, first, &last);
            const size_t at = hash & (block->word_count - 1);
            __builtin_prefetch(&block->words[at]);
            prefetch(&block->parts[at * row], row * sizeof(double));
            words[count].hash = hash, words[count].first = first, words[count++].last = last;
        }
        for (int32_t n = 0; n < count; n++) {
            const uint64_t hash = words[n].hash;
            const size_t at = hash & (block->word_count - 1);
            double *part = &block->parts[at * row];
            if (block->words[at] != hash) {
                struct pending pending;
                pending.see = add_term, pending.to = part, pending.count = 0;
                for (size_t k = 0; k < row; k++)
                    part[k] = 0;
                each_within_word(block, text, words[n].first, words[n].last, hash, &pending);
                look_up(block, &pending);
                block->words[at] = hash;
            }
            for (size_t k = 0; k < row; k++)
                scores[k] += part[k];
        }
    }
}

/* Add what the text's terms say to the scores, and to the number behind them how many terms it has. */
void add(struct block *block, const uint32_t *text, int32_t length, double *scores)
{
    if (block->words)
        add_words(block, text, length, scores);
    else if (block->adds_up)
        each_term(block, text, length, add_term, scores);
    else {
        const int32_t distinct = transform(block, text, length);
        for (int32_t n = 0; n < distinct; n++)
            add_weights(block, block->columns[n], block->values[n], scores);
        scores[block->score_count] += distinct;
    }
}

/* Write the text's tokens or words, a blank behind each; return its length, or -1 where a letter is OTHER. */
static int32_t separate(const struct block *block, const uint8_t *latin, int32_t length, uint32_t *text)
{
    int32_t begin = 0, end = 0;
    if (block->analyzer == CHAR_WB)
        text[end++] = ' ', begin++;
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

/* Add what a text in Latin-1 says to the scores, as add does; return false where that needs more than this. */
bool add_latin(struct model *model, const uint8_t *latin, int32_t length, double *scores)
{
    uint32_t text[4096];
    if (length > 4000)
        return false;
    for (int32_t n = 0; n < model->block_count; n++) {
        struct block *block = &model->blocks[n];
        const int32_t end = block->shortest ? separate(block, latin, length, text) : -1;
        if (end < 0)
            return false;
        add(block, text, end, scores);
    }
    return true;
}

/* The logistic function, right far below 0 too: there it is only the others' ratios that count. */
static double sigmoid(double score)
{
    return score < 0 ? exp(score) / (1 + exp(score)) : 1 / (1 + exp(-score));
}

/* Add the intercept to the scores, write each class's probability, as scikit-learn's predict_proba has it, but for
   NO_LINK, and return the best class's position. From then on there is a score a class, and the number of terms behind. */
int32_t conclude(const struct model *model, double *scores, double *probabilities)
{
    const int32_t count = model->score_count;
    int32_t best = 0;
    double sum = 0;
    for (int32_t k = 0; k < count; k++) {
        scores[k] = rounded(model->single, scores[k] + model->intercept[k]);
        if (scores[k] > scores[best])
            best = k;
    }
    for (int32_t k = 0; k < count && model->link != NO_LINK; k++) {
        const double score = scores[k];
        probabilities[k] = model->link == SOFTMAX   ? exp(score - scores[best])
                           : model->link == SIGMOID ? sigmoid(score)
                                                    : (fmin(fmax(score, -1), 1) + 1) / 2;
        sum += probabilities[k];
    }
    if (count < model->class_count) { /* one score for two classes: the second one's */
        scores[2] = scores[1], scores[1] = scores[0], scores[0] = -scores[0];
        probabilities[1] = probabilities[0], probabilities[0] = 1 - probabilities[1];
        return scores[1] > 0;
    }
    for (int32_t k = 0; k < count; k++)
        probabilities[k] = sum ? probabilities[k] / sum : 1.0 / count;
    return best;
}
