/* The load of the benchmarks: N clients at once, each a thread with blocking sockets, that GET paths over TLS, through
 * CONNECT or not, and throw the bodies away. One program for all sides, so that what it costs is the same for each.
 *
 *   load [-x PROXY_PORT] -p PORT -s NAME -a CA.pem [-c CLIENTS] [-n REQUESTS] [-1] [-e TEXT] [-k SLOW -r RATE] PATH...
 *
 * Everything is on 127.0.0.1. -n counts requests per client; client c's request r takes path (c * n + r) of the list,
 * which is walked round and round. -1 opens a connection for each request. -e names a text that each answer's head must
 * hold. The first SLOW clients read RATE bytes a second, and stop when the others are done.
 *
 * It prints, as JSON: the wall clock's seconds, per client the bytes and seconds, and for each request the seconds until
 * its first byte and its last, counted from the connection's begin where it has one of its own.
 *
 * As Go's clients do, it offers AES-128-GCM first and no ALPN.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 16384, BUFFER = 262144 };

static int proxy_port, port, clients = 1, requests = 1, fresh, slow;
static double rate;
static const char *name = "localhost", *expected;
static char **paths;
static int path_count;
static SSL_CTX *tls;
static atomic_int fast_left;
static pthread_barrier_t start_line;

struct client {
  int number;
  int slow;
  int fd;
  SSL *ssl;
  long long bytes;
  double seconds;
  int done;
  double *first, *last;
  char error[512];
  unsigned char *buffer;
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int fail(struct client *c, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(c->error, sizeof c->error, format, args);
  va_end(args);
  return -1;
}

static void leave(struct client *c) {
  if (c->ssl) {
    SSL_shutdown(c->ssl);
    SSL_free(c->ssl);
  }
  if (c->fd >= 0) close(c->fd);
  c->ssl = NULL;
  c->fd = -1;
}

static int tunnel(struct client *c) {
  char text[HEAD];
  int length = snprintf(text, sizeof text, "CONNECT %s:%d HTTP/1.1\r\nHost: %s:%d\r\n\r\n", name, port, name, port);
  if (send(c->fd, text, (size_t)length, MSG_NOSIGNAL) != length) return fail(c, "sending CONNECT failed");
  int have = 0;
  while (have < 4 || memcmp(text + have - 4, "\r\n\r\n", 4)) {
    ssize_t got = recv(c->fd, text + have, sizeof text - 1 - (size_t)have, 0);
    if (got <= 0) return fail(c, "no answer to CONNECT");
    have += (int)got;
    text[have] = 0;
  }
  return strncmp(text + 8, " 200", 4) ? fail(c, "CONNECT: %.40s", text) : 0;
}

static int join(struct client *c) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(proxy_port ? proxy_port : port))};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to)) return fail(c, "cannot connect: %m");
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (proxy_port && tunnel(c)) return -1;
  c->ssl = SSL_new(tls);
  SSL_set_fd(c->ssl, c->fd);
  SSL_set_tlsext_host_name(c->ssl, name);
  SSL_set1_host(c->ssl, name);
  if (SSL_connect(c->ssl) != 1) return fail(c, "TLS: %s", ERR_reason_error_string(ERR_peek_error()));
  return 0;
}

/* Reads the body's rest, at the client's own pace. */
static int drain(struct client *c, long long left) {
  double begin = now();
  long long taken = 0;
  while (left > 0) {
    int most = left < BUFFER ? (int)left : BUFFER;
    int got = SSL_read(c->ssl, c->buffer, most);
    if (got <= 0) return fail(c, "cut with %lld bytes to go", left);
    left -= got;
    taken += got;
    c->bytes += got;
    if (!c->slow) continue;
    if (!atomic_load(&fast_left)) return 1;
    double ahead = (double)taken / rate - (now() - begin);
    if (ahead > 0.001) usleep((useconds_t)(ahead * 1e6));
  }
  return 0;
}

/* One request; 1 where a slow client stopped early. */
static int get(struct client *c, const char *path, double begin, double *first) {
  char text[HEAD];
  int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: load\r\n%s\r\n", path, name, port,
                        fresh ? "Connection: close\r\n" : "");
  if (SSL_write(c->ssl, text, length) != length) return fail(c, "sending the request failed");
  int have = 0;
  char *end = NULL;
  while (!end) {
    int got = have < HEAD - 1 ? SSL_read(c->ssl, text + have, HEAD - 1 - have) : -1;
    if (got <= 0) return fail(c, "no answer");
    have += got;
    text[have] = 0;
    end = strstr(text, "\r\n\r\n");
  }
  *end = 0;
  end += 4;
  char *size = strcasestr(text, "\r\ncontent-length:");
  if (strncmp(text + 8, " 200", 4) || !size) return fail(c, "answered with %.200s", text);
  if (expected && !strstr(text, expected)) return fail(c, "no \"%s\" in %.400s", expected, text);
  long long left = atoll(size + strlen("\r\ncontent-length:"));
  int body = have - (int)(end - text);
  if (!body && left) {
    body = SSL_read(c->ssl, c->buffer, left < BUFFER ? (int)left : BUFFER);
    if (body <= 0) return fail(c, "no body");
  }
  *first = now() - begin;
  c->bytes += body;
  return drain(c, left - body);
}

static void *run(void *argument) {
  struct client *c = argument;
  pthread_barrier_wait(&start_line);
  double begin = now();
  int state = 0;
  for (int r = 0; r < requests && !state; r++) {
    double asked = now();
    if (!c->ssl && join(c)) break;
    if (!fresh && !r) asked = now();
    state = get(c, paths[(c->number * requests + r) % path_count], asked, &c->first[r]);
    c->last[r] = now() - asked;
    if (!state) c->done++;
    if (fresh) leave(c);
  }
  c->seconds = now() - begin;
  leave(c);
  if (!c->slow) atomic_fetch_sub(&fast_left, 1);
  return NULL;
}

static void list(const char *key, const struct client *all, int last) {
  const char *comma = "";
  printf(", \"%s\": [", key);
  for (int i = 0; i < clients; i++)
    for (int r = 0; r < all[i].done; r++, comma = ", ") printf("%s%.6f", comma, last ? all[i].last[r] : all[i].first[r]);
  printf("]");
}

static void report(const struct client *all, double seconds) {
  printf("{\"seconds\": %.6f, \"clients\": [", seconds);
  for (int i = 0; i < clients; i++)
    printf("%s{\"slow\": %s, \"bytes\": %lld, \"seconds\": %.6f, \"requests\": %d}", i ? ", " : "",
           all[i].slow ? "true" : "false", all[i].bytes, all[i].seconds, all[i].done);
  printf("]");
  list("first", all, 0);
  list("last", all, 1);
  printf("}\n");
}

int main(int argc, char **argv) {
  const char *ca = NULL;
  for (int o; (o = getopt(argc, argv, "x:p:s:a:c:n:1e:k:r:")) != -1;) switch (o) {
      case 'x': proxy_port = atoi(optarg); break;
      case 'p': port = atoi(optarg); break;
      case 's': name = optarg; break;
      case 'a': ca = optarg; break;
      case 'c': clients = atoi(optarg); break;
      case 'n': requests = atoi(optarg); break;
      case '1': fresh = 1; break;
      case 'e': expected = optarg; break;
      case 'k': slow = atoi(optarg); break;
      case 'r': rate = atof(optarg); break;
      default: return 2;
    }
  paths = argv + optind;
  path_count = argc - optind;
  if (!port || !ca || !path_count || clients < 1 || requests < 1 || (slow && rate <= 0)) return 2;
  signal(SIGPIPE, SIG_IGN);
  tls = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256");
  SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
  SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
  /* Without an end of TLS some sides close the connection; lengths tell here what is whole. */
  SSL_CTX_set_options(tls, SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_read_ahead(tls, 1);
  SSL_CTX_set_default_read_buffer_len(tls, BUFFER);
  if (SSL_CTX_load_verify_locations(tls, ca, NULL) != 1) return fprintf(stderr, "cannot read %s\n", ca), 2;
  struct client *all = calloc((size_t)clients, sizeof *all);
  pthread_t *threads = calloc((size_t)clients, sizeof *threads);
  pthread_barrier_init(&start_line, NULL, (unsigned)clients + 1);
  atomic_store(&fast_left, clients - slow);
  for (int i = 0; i < clients; i++) {
    all[i] = (struct client){.number = i, .slow = i < slow, .fd = -1};
    all[i].first = calloc((size_t)requests, sizeof(double));
    all[i].last = calloc((size_t)requests, sizeof(double));
    all[i].buffer = malloc(BUFFER);
    if (pthread_create(&threads[i], NULL, run, &all[i])) return fprintf(stderr, "cannot make threads\n"), 2;
  }
  pthread_barrier_wait(&start_line);
  double begin = now();
  for (int i = 0; i < clients; i++) pthread_join(threads[i], NULL);
  double seconds = now() - begin;
  for (int i = 0; i < clients; i++)
    if (*all[i].error) return fprintf(stderr, "client %d, request %d: %s\n", i, all[i].done, all[i].error), 1;
  report(all, seconds);
  return 0;
}
