/* Counts a region's texture matrices in one pass over its voxels, and sums each up to what its features are made of.
 *
 * Plain C11 without dependencies, called by counting.py, whose numpy code gives the same numbers where this was not
 * compiled. All counts are whole numbers and all sums are taken in one order, so that results do not depend on the
 * machine's load or its number of cores. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { IN_PLANE = 4, DIRECTIONS = 13, MOST = 27, SUMS = 16, KNOWN = 4096 };

/* Steps (z, y, x), in the order of zones.py. */
static const int STEPS[DIRECTIONS][3] = {
    {0, 0, 1}, {0, 1, -1}, {0, 1, 0}, {0, 1, 1}, {1, -1, -1}, {1, -1, 0}, {1, -1, 1},
    {1, 0, -1}, {1, 0, 0}, {1, 0, 1}, {1, 1, -1}, {1, 1, 0}, {1, 1, 1}};

/* How often level i has quality j: counts[column of j][i], a column for each quality that occurs. */
typedef struct {
    int32_t *column; /* of a quality, and 1 more; 0: none yet */
    int32_t *quality;
    int32_t *counts;
    int64_t voxels;
    int32_t columns;
} Table;

typedef struct {
    const uint16_t *levels;
    int64_t depth, height, width, plane, row;
    int32_t grey, bins;       /* bins: levels and 0 */
    int64_t offset[DIRECTIONS];
    int32_t longest;          /* run */
    uint32_t *pairs[DIRECTIONS], *pairs_slice, *pairs_sum;
    int32_t *runs[DIRECTIONS], *runs_slice, *runs_sum;
    uint32_t *run[DIRECTIONS];       /* how far each voxel of a slice is from where its run began */
    uint32_t *run_before[DIRECTIONS];
    int32_t *parent, *size;
    uint16_t *flat_distance, *distance;
    int64_t *voxels, inside;  /* of each level, in the slice and in the region */
    double *known, *of_level, *low, *high;
} Work;

static double times_log2(const Work *work, uint32_t count) {
    return count < KNOWN ? work->known[count] : count * log2(count);
}

/* Sum up counts[j][i]: see Sums in counting.py for the order. */
static void sum_up(const Work *work, const int32_t *counts, int32_t columns, const int32_t *quality, double voxels,
                   double *sums) {
    const int32_t bins = work->bins;
    double entries = 0, low_j = 0, high_j = 0, sum_j = 0, information = 0, energy = 0, uniform_j = 0;
    double *of_level = work->of_level, *low = work->low, *high = work->high;
    for (int32_t i = 0; i < bins; i++) of_level[i] = low[i] = high[i] = 0;
    for (int32_t c = 0; c < columns; c++) {
        const double j = quality ? quality[c] : c, square = j * j, inverse = j > 0 ? 1 / square : 0;
        const int32_t *row = counts + (int64_t)c * bins;
        double of_quality = 0;
        for (int32_t i = 1; i < bins; i++) {
            if (!row[i]) continue;
            const double n = row[i];
            of_quality += n;
            of_level[i] += n;
            low[i] += n * inverse;
            high[i] += n * square;
            information += times_log2(work, (uint32_t)row[i]);
            energy += n * n;
        }
        entries += of_quality;
        low_j += of_quality * inverse;
        high_j += of_quality * square;
        sum_j += of_quality * j;
        uniform_j += of_quality * of_quality;
    }
    double low_i = 0, high_i = 0, sum_i = 0, low_low = 0, low_high = 0, high_low = 0, high_high = 0, uniform_i = 0;
    for (int32_t i = 1; i < bins; i++) {
        const double square = (double)i * i;
        low_i += of_level[i] / square;
        high_i += of_level[i] * square;
        sum_i += of_level[i] * i;
        low_low += low[i] / square;
        low_high += low[i] * square;
        high_low += high[i] / square;
        high_high += high[i] * square;
        uniform_i += of_level[i] * of_level[i];
    }
    const double found[SUMS] = {entries, low_j, high_j, low_i, high_i, low_low, low_high, high_low, high_high,
                                uniform_i, uniform_j, sum_i, sum_j, information, energy, voxels};
    memcpy(sums, found, sizeof found);
}

/* Sum up pairs counted one way, pairs[i][j], as if each were counted both ways. */
static void sum_up_pairs(const Work *work, const uint32_t *pairs, double *marginal, double *added, double *apart,
                         double *joint) {
    const int32_t bins = work->bins, grey = work->grey;
    double most = 0, information = 0, energy = 0;
    memset(marginal, 0, sizeof(double) * grey);
    memset(added, 0, sizeof(double) * (2 * grey - 1));
    memset(apart, 0, sizeof(double) * grey);
    for (int32_t i = 1; i < bins; i++) {
        for (int32_t j = 1; j <= i; j++) {
            const uint32_t both = pairs[(int64_t)i * bins + j] + pairs[(int64_t)j * bins + i];
            if (!both) continue;
            const double n = both, twice = i == j ? n : 2 * n;
            marginal[i - 1] += n;
            if (i != j) marginal[j - 1] += n;
            added[i + j - 2] += twice;
            apart[i - j] += twice;
            if (n > most) most = n;
            information += times_log2(work, both) * (i == j ? 1 : 2);
            energy += n * twice;
        }
    }
    joint[0] = most, joint[1] = information, joint[2] = energy;
}

static int32_t root(int32_t *parent, int32_t voxel) {
    while (parent[voxel] != voxel) voxel = parent[voxel] = parent[parent[voxel]];
    return voxel;
}

static void put(const Work *work, Table *table, int32_t quality, int32_t level, int32_t voxels) {
    int32_t *column = &table->column[quality];
    if (!*column) {
        table->quality[table->columns] = quality;
        *column = ++table->columns;
    }
    table->counts[(int64_t)(*column - 1) * work->bins + level]++;
    table->voxels += voxels;
}

static void clear(const Work *work, Table *table) {
    for (int32_t c = 0; c < table->columns; c++) table->column[table->quality[c]] = 0;
    memset(table->counts, 0, sizeof(int32_t) * table->columns * work->bins);
    table->columns = 0, table->voxels = 0;
}

static void sum_up_table(const Work *work, const Table *table, double *sums) {
    sum_up(work, table->counts, table->columns, table->quality, (double)table->voxels, sums);
}

/* Steps from a face to a face until the outside: Rosenfeld and Pfaltz 1966, exact in two passes. */
static void taxicab(uint16_t *distance, const uint8_t *region, const Work *work, int across) {
    const int64_t size = work->depth * work->plane, row = work->row, plane = across ? work->plane : row;
    for (int64_t v = 0; v < size; v++) {
        if (!region[v]) continue; /* the border never is in the region, so that no step leaves the array */
        uint16_t least = distance[v - 1];
        if (distance[v - row] < least) least = distance[v - row];
        if (distance[v - plane] < least) least = distance[v - plane];
        distance[v] = least + 1;
    }
    for (int64_t v = size - 1; v >= 0; v--) {
        if (!region[v]) continue;
        uint16_t least = distance[v + 1];
        if (distance[v + row] < least) least = distance[v + row];
        if (distance[v + plane] < least) least = distance[v + plane];
        if (least + 1 < distance[v]) distance[v] = least + 1;
    }
}

/* Count the pairs and runs of one slice along directions from `first` to `last`, and join its zones. */
static void along(Work *work, int64_t z, int first, int last, uint32_t *longest) {
    const int32_t bins = work->bins;
    const uint16_t *levels = work->levels + z * work->plane;
    const int across = first == IN_PLANE;
    for (int64_t p = work->row; p < work->plane - work->row; p++) {
        const uint16_t level = levels[p];
        if (!level) continue;
        const int32_t voxel = (int32_t)(z * work->plane + p);
        if (!across) work->parent[voxel] = voxel;
        for (int d = first; d < last; d++) {
            const int64_t behind = p - work->offset[d];
            const uint16_t other = levels[behind];
            uint32_t *pairs = across ? work->pairs[d] : work->pairs_slice + (int64_t)d * bins * bins;
            pairs[(int32_t)level * bins + other]++;
            if (other != level) continue;
            const uint32_t *before = across ? work->run_before[d] + work->plane : work->run[d];
            const uint32_t length = before[behind] + 1;
            work->run[d][p] = length;
            int32_t *runs = across ? work->runs[d] : work->runs_slice + (int64_t)d * work->longest * bins;
            /* This voxel begins no run of its own, and the one that it is in is one longer. */
            runs[bins + level]--;
            runs[(int64_t)length * bins + level]--;
            runs[(int64_t)(length + 1) * bins + level]++;
            if (length > longest[d]) longest[d] = length;
            int32_t one = root(work->parent, (int32_t)(z * work->plane + behind)), two = root(work->parent, voxel);
            if (one == two) continue;
            if (one > two) {
                const int32_t swapped = one;
                one = two, two = swapped;
            }
            work->parent[two] = one;
            if (!across) continue;
            work->size[one] += work->size[two];
            if (work->distance[two] < work->distance[one]) work->distance[one] = work->distance[two];
        }
    }
}

/* Of a slice's voxels: how many neighbours they have, their levels' sum, and how many share the level. */
typedef struct {
    double *numbers, *differences; /* by level, from 1 */
    int32_t *same;                 /* [MOST + 1][bins] */
} Neighbourhood;

static void look_around(const Work *work, const uint16_t *row, int64_t first, int64_t many_offsets,
                        const int64_t *offsets, uint16_t *many, uint16_t *total, uint16_t *same, int64_t n) {
    (void)work;
    row += first;
    for (int64_t o = 0; o < many_offsets; o++) {
        const uint16_t *other = row + offsets[o];
        for (int64_t x = 0; x < n; x++) {
            many[x] += other[x] != 0;
            total[x] += other[x];
            same[x] += other[x] == row[x];
        }
    }
}

static void note(const Work *work, const uint16_t *row, int64_t n, const uint16_t *many, const uint16_t *total,
                 const uint16_t *same, Neighbourhood *to) {
    for (int64_t x = 0; x < n; x++) {
        const uint16_t level = row[x];
        if (!level) continue;
        to->same[(int64_t)(same[x] + 1) * work->bins + level]++;
        if (!many[x]) continue;
        to->numbers[level - 1] += 1;
        to->differences[level - 1] += fabs(level - (double)total[x] / many[x]);
    }
}

static void *take(void **taken, int *number, int64_t count, int64_t size) {
    void *memory = calloc(count > 0 ? count : 1, size);
    if (memory) taken[(*number)++] = memory;
    return memory;
}

/* `levels`: [depth, height, width] with a border of 0, from 1 to `grey`; `region`: the same of 0 and 1, whose edge zones
 * are measured from. Rows of the directional results are four directions of each slice, their sum in each slice, four
 * of all slices, their sum, 13 in the volume, their sum; of the others each slice, their sum, the volume.
 * 0, or -1 where memory ran out. */
int auscult_texture(const uint16_t *levels, const uint8_t *region, int64_t depth, int64_t height, int64_t width,
                    int32_t grey, double *marginal, double *added, double *apart, double *joint, double *runs,
                    double *sizes, double *distances, double *tones, double *dependences) {
    void *taken[128];
    int number = 0, failed = 0;
    Work work = {.levels = levels, .depth = depth, .height = height, .width = width, .plane = height * width,
                 .row = width, .grey = grey, .bins = grey + 1};
    const int64_t plane = work.plane, all = depth * plane, bins = work.bins, cells = bins * bins;
    int64_t most = depth > height ? depth : height;
    work.longest = (int32_t)((most > width ? most : width) + 1);
    const int64_t lengths = work.longest * bins;
    int64_t distinct = 2; /* sizes of zones: they add up to no more than the voxels */
    while (distinct * distinct < 2 * all) distinct++;
#define TAKE(place, count, type) \
    if (!((place) = take(taken, &number, (count), sizeof(type)))) { failed = -1; goto done; }
    TAKE(work.pairs_slice, IN_PLANE * cells, uint32_t)
    TAKE(work.pairs_sum, cells, uint32_t)
    TAKE(work.runs_slice, IN_PLANE * lengths, int32_t)
    TAKE(work.runs_sum, lengths, int32_t)
    for (int d = 0; d < DIRECTIONS; d++) {
        work.offset[d] = STEPS[d][0] * plane + STEPS[d][1] * width + STEPS[d][2];
        TAKE(work.pairs[d], cells, uint32_t)
        TAKE(work.runs[d], lengths, int32_t)
        TAKE(work.run[d], plane, uint32_t)
        if (d >= IN_PLANE) TAKE(work.run_before[d], plane, uint32_t)
    }
    TAKE(work.parent, all, int32_t)
    TAKE(work.size, all, int32_t)
    TAKE(work.flat_distance, all, uint16_t)
    TAKE(work.distance, all, uint16_t)
    TAKE(work.voxels, 2 * bins, int64_t)
    TAKE(work.known, KNOWN, double)
    TAKE(work.of_level, bins, double)
    TAKE(work.low, bins, double)
    TAKE(work.high, bins, double)
    for (int32_t n = 1; n < KNOWN; n++) work.known[n] = n * log2(n);
    Table tables[6] = {0}, *size_of = tables, *distance_of = tables + 3; /* of a slice, of all slices, of the volume */
    const int64_t farthest = (depth + height + width) / 2 + 2;
    for (int t = 0; t < 6; t++) {
        TAKE(tables[t].column, t < 3 ? all + 1 : farthest, int32_t)
        TAKE(tables[t].quality, t < 3 ? distinct : farthest, int32_t)
        TAKE(tables[t].counts, (t < 3 ? distinct : farthest) * bins, int32_t)
    }
    Neighbourhood hoods[3] = {0};
    for (int h = 0; h < 3; h++) TAKE(hoods[h].same, (MOST + 1) * bins, int32_t)
    uint16_t *around;
    TAKE(around, 3 * width, uint16_t)
    uint16_t *many = around, *total = around + width, *same = around + 2 * width;
    int64_t beside[2 * DIRECTIONS];
    for (int d = 0; d < DIRECTIONS; d++) beside[2 * d] = work.offset[d], beside[2 * d + 1] = -work.offset[d];
    uint32_t longest[DIRECTIONS] = {0};

    taxicab(work.flat_distance, region, &work, 0);
    taxicab(work.distance, region, &work, 1);
    double *const merged_tones = tones + depth * 2 * grey, *const volume_tones = merged_tones + 2 * grey;
    hoods[1].numbers = merged_tones, hoods[1].differences = merged_tones + grey;
    hoods[2].numbers = volume_tones, hoods[2].differences = volume_tones + grey;

#define PAIRS(row) marginal + (row) * grey, added + (row) * (2 * grey - 1), apart + (row) * grey, joint + (row) * 3
    for (int64_t z = 0; z < depth; z++) {
        const uint16_t *slice = levels + z * plane;
        int64_t *voxels = work.voxels, inside = 0;
        memset(voxels, 0, sizeof(int64_t) * bins);
        for (int64_t p = 0; p < plane; p++) voxels[slice[p]]++;
        for (int32_t i = 1; i < bins; i++) inside += voxels[i], voxels[bins + i] += voxels[i];
        work.inside += inside;
        for (int d = 0; d < DIRECTIONS; d++) {
            if (d >= IN_PLANE) {
                uint32_t *swapped = work.run_before[d];
                work.run_before[d] = work.run[d], work.run[d] = swapped;
            }
            memset(work.run[d], 0, sizeof(uint32_t) * plane);
        }
        if (!inside) continue;
        uint32_t here[DIRECTIONS] = {0};
        along(&work, z, 0, IN_PLANE, here);
        /* Zones of the slice: a voxel's parent lies before it, so one step leads to the root. */
        for (int64_t v = z * plane; v < (z + 1) * plane; v++) {
            if (!levels[v]) continue;
            const int32_t r = work.parent[v] = work.parent[work.parent[v]];
            work.size[r]++;
            if (work.flat_distance[v] < work.flat_distance[r]) work.flat_distance[r] = work.flat_distance[v];
            if (work.distance[v] < work.distance[r]) work.distance[r] = work.distance[v];
        }
        for (int64_t v = z * plane; v < (z + 1) * plane; v++) {
            if (!levels[v] || work.parent[v] != v) continue;
            for (int t = 0; t < 2; t++) {
                put(&work, size_of + t, work.size[v], levels[v], work.size[v]);
                put(&work, distance_of + t, work.flat_distance[v], levels[v], work.size[v]);
            }
        }
        sum_up_table(&work, size_of, sizes + z * SUMS);
        sum_up_table(&work, distance_of, distances + z * SUMS);
        clear(&work, size_of);
        clear(&work, distance_of);
        along(&work, z, IN_PLANE, DIRECTIONS, longest);
        uint32_t far = 0;
        for (int d = 0; d < IN_PLANE; d++) {
            uint32_t *pairs = work.pairs_slice + d * cells;
            sum_up_pairs(&work, pairs, PAIRS(z * IN_PLANE + d));
            int32_t *lines = work.runs_slice + d * lengths;
            for (int32_t i = 1; i < bins; i++) lines[bins + i] += (int32_t)voxels[i];
            sum_up(&work, lines, here[d] + 2, NULL, (double)inside, runs + (z * IN_PLANE + d) * SUMS);
            for (int64_t c = 0; c < cells; c++) work.pairs[d][c] += pairs[c], work.pairs_sum[c] += pairs[c];
            for (int64_t c = 0; c < (int64_t)(here[d] + 2) * bins; c++)
                work.runs[d][c] += lines[c], work.runs_sum[c] += lines[c];
            memset(lines, 0, sizeof(int32_t) * (here[d] + 2) * bins);
            if (here[d] > longest[d]) longest[d] = here[d];
            if (here[d] > far) far = here[d];
        }
        sum_up_pairs(&work, work.pairs_sum, PAIRS(depth * IN_PLANE + z));
        sum_up(&work, work.runs_sum, far + 2, NULL, (double)inside * IN_PLANE, runs + (depth * IN_PLANE + z) * SUMS);
        memset(work.pairs_slice, 0, sizeof(uint32_t) * IN_PLANE * cells);
        memset(work.pairs_sum, 0, sizeof(uint32_t) * cells);
        memset(work.runs_sum, 0, sizeof(int32_t) * (far + 2) * bins);

        hoods[0].numbers = tones + z * 2 * grey, hoods[0].differences = hoods[0].numbers + grey;
        for (int64_t y = 1; y < height - 1; y++) {
            const uint16_t *row = slice + y * width;
            int64_t first = 1, last = width - 1;
            while (first < last && !row[first]) first++;
            while (last > first && !row[last - 1]) last--;
            if (first == last) continue;
            memset(around, 0, sizeof(uint16_t) * 3 * width);
            look_around(&work, row, first, 2 * IN_PLANE, beside, many, total, same, last - first);
            note(&work, row + first, last - first, many, total, same, &hoods[0]);
            look_around(&work, row, first, 2 * (DIRECTIONS - IN_PLANE), beside + 2 * IN_PLANE, many, total, same,
                        last - first);
            note(&work, row + first, last - first, many, total, same, &hoods[2]);
        }
        for (int32_t i = 0; i < grey; i++) {
            hoods[1].numbers[i] += hoods[0].numbers[i];
            hoods[1].differences[i] += hoods[0].differences[i];
        }
        sum_up(&work, hoods[0].same, MOST + 1, NULL, (double)inside, dependences + z * SUMS);
        for (int64_t c = 0; c < (MOST + 1) * bins; c++) hoods[1].same[c] += hoods[0].same[c], hoods[0].same[c] = 0;
    }
    for (int64_t v = 0; v < all; v++) {
        if (!levels[v] || work.parent[v] != v) continue;
        put(&work, size_of + 2, work.size[v], levels[v], work.size[v]);
        put(&work, distance_of + 2, work.distance[v], levels[v], work.size[v]);
    }
    for (int t = 1; t < 3; t++) {
        sum_up_table(&work, size_of + t, sizes + (depth + t - 1) * SUMS);
        sum_up_table(&work, distance_of + t, distances + (depth + t - 1) * SUMS);
        sum_up(&work, hoods[t].same, MOST + 1, NULL, (double)work.inside, dependences + (depth + t - 1) * SUMS);
    }
    /* Four directions of all slices and their sum, then all thirteen and theirs. */
    uint32_t far = 0;
    for (int d = 0; d < DIRECTIONS; d++) {
        const int64_t row = depth * (IN_PLANE + 1) + IN_PLANE + 1 + d;
        if (d >= IN_PLANE)
            for (int32_t i = 1; i < bins; i++) work.runs[d][bins + i] += (int32_t)work.voxels[bins + i];
        if (longest[d] > far) far = longest[d];
        sum_up_pairs(&work, work.pairs[d], PAIRS(row));
        sum_up(&work, work.runs[d], longest[d] + 2, NULL, (double)work.inside, runs + row * SUMS);
        for (int64_t c = 0; c < cells; c++) work.pairs_sum[c] += work.pairs[d][c];
        for (int64_t c = 0; c < (int64_t)(longest[d] + 2) * bins; c++) work.runs_sum[c] += work.runs[d][c];
        if (d < IN_PLANE) {
            sum_up_pairs(&work, work.pairs[d], PAIRS(row - IN_PLANE - 1));
            sum_up(&work, work.runs[d], longest[d] + 2, NULL, (double)work.inside, runs + (row - IN_PLANE - 1) * SUMS);
        }
        if (d == IN_PLANE - 1 || d == DIRECTIONS - 1) {
            const int64_t sum = d < IN_PLANE ? row - IN_PLANE : row + 1;
            sum_up_pairs(&work, work.pairs_sum, PAIRS(sum));
            sum_up(&work, work.runs_sum, far + 2, NULL, (double)work.inside * (d + 1), runs + sum * SUMS);
        }
    }
done:
    while (number) free(taken[--number]);
    return failed;
}
