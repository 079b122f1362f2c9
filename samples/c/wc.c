/* A command in C: counts the lines, words and bytes of files, or of standard input. */

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static int count(FILE *in, const char *name) {
    unsigned long lines = 0, words = 0, bytes = 0;
    int inside = 0;
    for (int c; (c = getc(in)) != EOF; bytes++) {
        lines += c == '\n';
        words += !inside && !isspace(c);
        inside = !isspace(c);
    }
    if (ferror(in))
        return -1;
    printf("%lu %lu %lu%s%s\n", lines, words, bytes, *name ? " " : "", name);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return count(stdin, "") != 0;
    int status = 0;
    for (int i = 1; i < argc; i++) {
        FILE *in = fopen(argv[i], "r");
        if (!in || count(in, argv[i])) {
            fprintf(stderr, "wc: %s: %s\n", argv[i], strerror(errno));
            status = 1;
        }
        if (in)
            fclose(in);
    }
    return status;
}
