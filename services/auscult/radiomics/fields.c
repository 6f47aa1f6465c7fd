/* Sums over a region's neighbourhoods and pairs, and what its shape is measured from.
 *
 * Plain C11 without dependencies, called by native.py; shape.py, peaks.py and mesh.py have the same in numpy. What a
 * wide instruction does to each element is what a narrow one does, and no sum is reordered: results are alike. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

enum { LANES = 8, CASES = 256, REACH = 4 };

static inline void add(double *restrict to, const double *restrict from, int64_t n) {
    for (int64_t x = 0; x < n; x++) to[x] += from[x];
}

static inline void add_both(double *restrict to, const double *restrict from, const double *restrict other, int64_t n) {
    for (int64_t x = 0; x < n; x++) to[x] += from[x] + other[x];
}

static inline void subtract(double *restrict to, const double *restrict from, const double *restrict less, int64_t n) {
    for (int64_t x = 0; x < n; x++) to[x] = from[x] - less[x];
}

/* Sum `field`, [depth + 2 deep][height + 2 high][width + 2 wide], over the sphere around each place that is so far
 * from its edge: `sums`, [depth][height][width]. `half`, [deep + 1][high + 1]: how far the sphere's rows
 * reach on either side, by how many steps along z and y each is from the middle; -1: nowhere. 0, or -1 where memory ran out. */
WIDE int auscult_spheres(const double *field, int64_t depth, int64_t height, int64_t width, int64_t deep, int64_t high,
                         int64_t wide, const int32_t *half, double *sums) {
    const int64_t tall = height + 2 * high, broad = width + 2 * wide;
    double *upto = malloc(sizeof(double) * (broad + 1)), *disc = malloc(sizeof(double) * height * width);
    double *rows = malloc(sizeof(double) * (wide + 1) * tall * width); /* sums along x, by how far they reach */
    uint8_t *used = calloc(wide + 1, 1);
    int failed = -1;
    if (!upto || !disc || !rows || !used) goto done;
    for (int64_t n = 0; n < (deep + 1) * (high + 1); n++)
        if (half[n] >= 0) used[half[n]] = 1;
    memset(sums, 0, sizeof(double) * depth * height * width);
    for (int64_t plane = 0; plane < depth + 2 * deep; plane++) {
        for (int64_t y = 0; y < tall; y++) {
            const double *line = field + (plane * tall + y) * broad;
            upto[0] = 0;
            for (int64_t x = 0; x < broad; x++) upto[x + 1] = upto[x] + line[x];
            for (int64_t r = 0; r <= wide; r++)
                if (used[r]) subtract(rows + (r * tall + y) * width, upto + wide + r + 1, upto + wide - r, width);
        }
        for (int64_t dz = 0; dz <= deep; dz++) {
            const int64_t before = plane - deep - dz, behind = plane - deep + dz;
            const int to_before = before >= 0 && before < depth, to_behind = dz && behind >= 0 && behind < depth;
            if (!to_before && !to_behind) continue;
            memset(disc, 0, sizeof(double) * height * width);
            for (int64_t y = 0; y < height; y++)
                for (int64_t dy = 0; dy <= high; dy++) {
                    const int32_t r = half[dz * (high + 1) + dy];
                    if (r < 0) continue;
                    double *to = disc + y * width, *middle = rows + (r * tall + y + high) * width;
                    if (dy) add_both(to, middle - dy * width, middle + dy * width, width);
                    else add(to, middle, width);
                }
            if (to_before) add(sums + before * height * width, disc, height * width);
            if (to_behind) add(sums + behind * height * width, disc, height * width);
        }
    }
    failed = 0;
done:
    free(upto), free(disc), free(rows), free(used);
    return failed;
}

/* The sum of w a b over n numbers, in LANES partial sums, whatever the processor. */
static inline double weighed(const double *w, const double *a, const double *b, int64_t n) {
    double part[LANES] = {0}, sum = 0;
    int64_t p = 0;
    for (; p + LANES <= n; p += LANES)
        for (int l = 0; l < LANES; l++) part[l] += w[p + l] * a[p + l] * b[p + l];
    for (; p < n; p++) sum += w[p] * a[p] * b[p];
    for (int l = 0; l < LANES; l++) sum += part[l];
    return sum;
}

/* Add to sums[0..2] those of |ones|^2, |first|^2 and Re(second conj(ones)) times an even weight. Spectra are parts
 * [many][depth][height] of complex numbers, weights [many][depth / 2 + 1][height / 2 + 1]; both sizes are even.
 * 0, or -1 where memory ran out. */
WIDE int auscult_weigh(const double *ones, const double *first, const double *second, const double *weight,
                       int64_t many, int64_t depth, int64_t height, double *sums) {
    const int64_t half = height / 2, row = 2 * height;
    double *w = malloc(sizeof(double) * row); /* of a row's real and imaginary parts */
    if (!w) return -1;
    for (int64_t x = 0; x < many; x++) {
        for (int64_t z = 0; z <= depth / 2; z++) {
            const double *given = weight + (x * (depth / 2 + 1) + z) * (half + 1);
            for (int64_t y = 0; y < height; y++) w[2 * y] = w[2 * y + 1] = given[y <= half ? y : height - y];
            for (int mirrored = 0; mirrored <= (z > 0 && z < depth / 2); mirrored++) {
                const int64_t at = (x * depth + (mirrored ? depth - z : z)) * row;
                sums[0] += weighed(w, ones + at, ones + at, row);
                sums[1] += weighed(w, first + at, first + at, row);
                sums[2] += weighed(w, second + at, ones + at, row);
            }
        }
    }
    free(w);
    return 0;
}

/* The square of the longest distance of two of n points, [3][n]. */
WIDE double auscult_farthest(const double *points, int64_t n) {
    const double *z = points, *y = points + n, *x = points + 2 * n;
    double most[LANES] = {0}, greatest = 0;
    for (int64_t one = 0; one < n; one++) {
        int64_t other = one + 1;
        for (; other + LANES <= n; other += LANES) {
            for (int l = 0; l < LANES; l++) {
                const double dz = z[other + l] - z[one], dy = y[other + l] - y[one], dx = x[other + l] - x[one];
                const double square = dz * dz + dy * dy + dx * dx;
                most[l] = square > most[l] ? square : most[l];
            }
        }
        for (; other < n; other++) {
            const double dz = z[other] - z[one], dy = y[other] - y[one], dx = x[other] - x[one];
            const double square = dz * dz + dy * dy + dx * dx;
            greatest = square > greatest ? square : greatest;
        }
    }
    for (int l = 0; l < LANES; l++) greatest = most[l] > greatest ? most[l] : greatest;
    return greatest;
}

/* Count the 256 cases of marching cubes in `mask`, [depth][height][width] of 0 and 1; see mesh.py for their numbers. */
void auscult_cases(const uint8_t *mask, int64_t depth, int64_t height, int64_t width, int64_t *counts) {
    memset(counts, 0, sizeof(int64_t) * CASES);
    for (int64_t z = 0; z + 1 < depth; z++) {
        for (int64_t y = 0; y + 1 < height; y++) {
            const uint8_t *a = mask + (z * height + y) * width, *b = a + width, *c = a + height * width, *d = c + width;
            uint32_t left = a[0] | b[0] << 2 | c[0] << 4 | d[0] << 6;
            int64_t outside = 0, within = 0;
            for (int64_t x = 1; x < width; x++) {
                const uint32_t right = a[x] | b[x] << 2 | c[x] << 4 | d[x] << 6, found = left | right << 1;
                left = right;
                if (!found) outside++;
                else if (found == CASES - 1) within++;
                else counts[found]++;
            }
            counts[0] += outside, counts[CASES - 1] += within;
        }
    }
}

/* Whether the end of a row is farther out than the line between any two ends on either side of it; -1: no voxel. */
static int is_corner(const int32_t *ends, int64_t rows, int64_t columns, int64_t row, int64_t column, int32_t sign) {
    const int64_t place = 2 * (int64_t)sign * ends[row * columns + column];
    for (int64_t dr = 0; dr <= REACH; dr++) {
        if (row - dr < 0 || row + dr >= rows) break;
        for (int64_t dc = dr ? -REACH : 1; dc <= REACH; dc++) {
            const int64_t left = dc < 0 ? column + dc : column - dc, right = dc < 0 ? column - dc : column + dc;
            if (left < 0 || right >= columns) continue;
            const int64_t one = (row + dr) * columns + column + dc, other = (row - dr) * columns + column - dc;
            if (ends[one] < 0 || ends[other] < 0) continue;
            if (sign * ((int64_t)ends[one] + ends[other]) >= place) return 0;
        }
    }
    return 1;
}

/* Find those vertices of the mesh around `mask`, [depth][height][width] of 0 and 1, that can be corners of its convex
 * hull: the two ends of each row along an axis. `corners`: [.][3], (z, y, x), with room for two to each row of each
 * axis. Returns how many, or -1 where memory ran out. */
int64_t auscult_outermost(const uint8_t *mask, int64_t depth, int64_t height, int64_t width, double *corners) {
    const int64_t shape[3] = {depth, height, width};
    int32_t *ends[3][2] = {{0}};
    int64_t found = -1;
    for (int axis = 0; axis < 3; axis++) {
        const int64_t rows = depth * height * width / shape[axis];
        for (int end = 0; end < 2; end++) {
            if (!(ends[axis][end] = malloc(sizeof(int32_t) * rows))) goto done;
            for (int64_t n = 0; n < rows; n++) ends[axis][end][n] = -1;
        }
    }
    for (int64_t z = 0; z < depth; z++) {
        for (int64_t y = 0; y < height; y++) {
            const uint8_t *row = mask + (z * height + y) * width;
            int64_t first = 0, last = width - 1;
            while (first < width && !row[first]) first++;
            if (first == width) continue;
            while (!row[last]) last--;
            ends[2][0][z * height + y] = (int32_t)first, ends[2][1][z * height + y] = (int32_t)last;
            int32_t *near_z = ends[0][0] + y * width, *far_z = ends[0][1] + y * width;
            int32_t *near_y = ends[1][0] + z * width, *far_y = ends[1][1] + z * width;
            for (int64_t x = first; x <= last; x++) {
                if (!row[x]) continue;
                far_z[x] = (int32_t)z, far_y[x] = (int32_t)y;
                if (near_z[x] < 0) near_z[x] = (int32_t)z;
                if (near_y[x] < 0) near_y[x] = (int32_t)y;
            }
        }
    }
    found = 0;
    for (int axis = 0; axis < 3; axis++) {
        const int one = axis == 0, other = axis == 2 ? 1 : 2;
        for (int64_t row = 0; row < shape[one]; row++) {
            for (int64_t column = 0; column < shape[other]; column++) {
                for (int end = 0; end < 2; end++) {
                    const int32_t place = ends[axis][end][row * shape[other] + column], sign = end ? 1 : -1;
                    if (place < 0) continue;
                    if (!is_corner(ends[axis][end], shape[one], shape[other], row, column, sign)) continue;
                    double *corner = corners + 3 * found++;
                    corner[one] = (double)row, corner[other] = (double)column, corner[axis] = place + sign * 0.5;
                }
            }
        }
    }
done:
    for (int axis = 0; axis < 3; axis++)
        for (int end = 0; end < 2; end++) free(ends[axis][end]);
    return found;
}
