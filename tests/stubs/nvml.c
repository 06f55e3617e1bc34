/* A stand-in for libnvidia-ml.so.1, written after NVIDIA's NVML API reference: GPUs whose power is a known function
 * of CLOCK_MONOTONIC, so that their energy counters are too, and which can be made to fail.
 *
 * When it is loaded it takes its state from the environment (below, `from_environment`); in one process a test goes on
 * with the functions `stub_*`, called through ctypes. Device -1 stands for all of them.
 *
 * Power of device d is that of its wave plus d watts. Waves are periodic in absolute CLOCK_MONOTONIC time: `constant`;
 * `square`: `high` in the first half of each period, `low` in the second; `ramp`: from `low` to `high` in each period.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NOT_LOADED = 9, TIMEOUT = 10 };
enum { LOST = 15 };
enum { MOST = 16, PARTS = 7, RULES = 64 };
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int Status;

typedef struct { union { double d; u32 ui; u64 ull; } v; } Value;
typedef struct { u32 id, scope; long long stamp, latency; u32 type; Status status; Value value; } FieldValue;
typedef struct { u64 stamp; Value value; } SampleValue;
typedef struct { char legacy[16]; u32 domain, bus, device, chip, subsystem; char bus_id[32]; } Pci;
typedef struct { u64 total, free, used; } Memory;
typedef struct { u32 version; u64 total, reserved, free, used; } Memory2;
typedef struct { u32 gpu, memory; } Utilization;
typedef struct { u32 version, sensor; int celsius; } Temperature;
typedef struct { u32 pid; u64 memory; u32 gpu_instance, compute_instance; } Process;
typedef struct { u32 pid; u64 stamp; u32 sm, memory, encoder, decoder; } Usage;

typedef struct {
    char shape[16];
    double low, high, period;
} Wave;

typedef struct {
    Wave wave;
    double since;      /* the energy counter counts from here (CLOCK_MONOTONIC, s) */
    double reset_at;   /* and from here once this has come; 0: never */
    int lost;
    u32 chip, architecture, utilization, activity, celsius, memory_celsius, clock, memory_clock, limit, ecc[2];
    u64 reasons, total, used, reserved;
    int processes;
    Process process[16];
    u32 busy[16];      /* of each process: percent of the time */
    int reports;       /* generation in which its events were asked for */
} Gpu;

/* What a handle points to. Those of an earlier nvmlInit are dead. */
typedef struct { int generation, gpu, part; } Handle;

typedef struct { Handle *device; u64 type, number; u32 gpu_instance, compute_instance; } Event;

/* "function" or "function:field:scope", a device, what it answers or how long it takes */
typedef struct { char what[96]; int device; Status status; double from, until; } Rule;

static Gpu gpus[MOST];
static int count = -1, parts, driver_down;
static int generation, opened, module_scope, hanging, epoch_clock = 1;
static char product[96] = "NVIDIA H100 80GB HBM3";
static double update_s, sample_s = 0.02;
static Status init_status;
static Rule rules[RULES];
static volatile int released;
static int rules_set;
static struct { const char *what; u64 calls; } called[RULES];
static u64 field_calls[512];
static Handle handles[64][MOST][PARTS + 1];

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }

/* In microseconds: since 1970, or since the boot. By one difference for good: the same moment has the same stamp */
static long long ahead_us[2];
static void compare_clocks(void)
{
    struct timespec t;
    for (int clock = 0; clock < 2; clock++) {
        double shortest = 1;
        for (int i = 0; i < 100; i++) {
            double before = now(), after;
            clock_gettime(clock ? CLOCK_REALTIME : CLOCK_BOOTTIME, &t);
            after = now();
            if (after - before >= shortest) continue;
            shortest = after - before;
            ahead_us[clock] = (long long)t.tv_sec * 1000000 + t.tv_nsec / 1000 - llround((before + after) / 2 * 1e6);
        }
    }
}
static long long stamp_of(double mono) { return llround(mono * 1e6) + ahead_us[epoch_clock]; }

/* ---- the load ---- */

static double power_at(int d, double t)
{
    Wave *w = &gpus[d].wave;
    double phase = w->period > 0 ? fmod(t, w->period) / w->period : 0;
    if (!strcmp(w->shape, "square")) return d + (phase < 0.5 ? w->high : w->low);
    if (!strcmp(w->shape, "ramp")) return d + w->low + (w->high - w->low) * phase;
    return d + w->high;
}

/* The integral from 0 to t, joules */
static double work_until(int d, double t)
{
    Wave *w = &gpus[d].wave;
    double n, phase, part;
    if (w->period <= 0) return t * (d + w->high);
    n = floor(t / w->period);
    phase = t / w->period - n;
    if (!strcmp(w->shape, "square")) {
        part = phase < 0.5 ? w->high * phase : w->high * 0.5 + w->low * (phase - 0.5);
        return d * t + w->period * (n * (w->low + w->high) / 2 + part);
    }
    if (!strcmp(w->shape, "ramp")) {
        part = w->low * phase + (w->high - w->low) * phase * phase / 2;
        return d * t + w->period * (n * (w->low + w->high) / 2 + part);
    }
    return t * (d + w->high);
}

static double base_of(int d, double t)
{
    Gpu *g = &gpus[d];
    return g->reset_at > 0 && t >= g->reset_at ? g->reset_at : g->since;
}

static double updated(double t) { return update_s > 0 ? floor(t / update_s) * update_s : t; }

/* ---- control ---- */

double stub_work(int d, double from, double until) { return work_until(d, until) - work_until(d, from); }
double stub_power(int d, double at) { return power_at(d, at); }

#define EACH(d) for (int i = (d) < 0 ? 0 : (d); i < ((d) < 0 ? MOST : (d) + 1); i++)

void stub_wave(int d, const char *shape, double low, double high, double period)
{
    EACH(d) {
        snprintf(gpus[i].wave.shape, sizeof gpus[i].wave.shape, "%s", shape);
        gpus[i].wave.low = low, gpus[i].wave.high = high, gpus[i].wave.period = period;
    }
}

void stub_count(int n) { count = n; }
void stub_parts(int n) { parts = n; }
void stub_product(const char *name, u32 chip, u32 architecture)
{
    snprintf(product, sizeof product, "%s", name);
    EACH(-1) { gpus[i].chip = chip; gpus[i].architecture = architecture; }
}
void stub_module(int scope) { module_scope = scope; }             /* 1: only the module's power; 2: both */
void stub_update(double seconds) { update_s = seconds; }          /* the counter moves only so often */
void stub_samples(double seconds) { sample_s = seconds; }         /* between buffered samples */
void stub_stamps_from_boot(int yes) { epoch_clock = !yes; }
void stub_reset_energy_at(int d, double mono) { EACH(d) gpus[i].reset_at = mono; }
void stub_init_status(Status status) { init_status = status; }
void stub_lose(int d) { EACH(d) gpus[i].lost = 1; }

/* All devices are lost, opening fails so many times; then everything is back, counters begin at 0 */
void stub_reset_driver(int failures) { driver_down = failures + 1; stub_lose(-1); }

static void set_rule(const char *what, int d, Status status, double from, double until)
{
    int at = -1;
    for (int i = 0; i < RULES; i++) {
        if (!strcmp(rules[i].what, what) && rules[i].device == d) { at = i; break; }
        if (at < 0 && !rules[i].what[0]) at = i;
    }
    snprintf(rules[at].what, sizeof rules[at].what, "%s", status || until ? what : "");
    rules[at].device = d, rules[at].status = status, rules[at].from = from, rules[at].until = until;
    rules_set = 1;
}

/* `what`: a function's name, or FieldValues:ID:SCOPE. Status 0: it works again */
void stub_fail(const char *what, int d, Status status) { set_rule(what, d, status, 0, 0); }

/* A call of it within these times (CLOCK_MONOTONIC) returns when they are over, or the stub was released */
void stub_hang(const char *what, int d, double from, double until) { set_rule(what, d, 0, from, until); released = 0; }
void stub_release(void) { released = 1; }
int stub_hanging(void) { return hanging; }

/* The call takes so long */
static struct { char what[96]; u32 us; } delays[8];
void stub_delay(const char *what, u32 us)
{
    for (int i = 0; i < 8; i++)
        if (!delays[i].what[0] || !strcmp(delays[i].what, what)) {
            snprintf(delays[i].what, sizeof delays[i].what, "%s", what);
            delays[i].us = us;
            rules_set = 1;
            return;
        }
}

int stub_set(const char *what, int d, double value)
{
    int known = 1;
    EACH(d) {
        Gpu *g = &gpus[i];
        if (!strcmp(what, "utilization")) g->utilization = value;
        else if (!strcmp(what, "activity")) g->activity = value;
        else if (!strcmp(what, "celsius")) g->celsius = value;
        else if (!strcmp(what, "memory_celsius")) g->memory_celsius = value;
        else if (!strcmp(what, "clock")) g->clock = value;
        else if (!strcmp(what, "memory_clock")) g->memory_clock = value;
        else if (!strcmp(what, "limit")) g->limit = value;
        else if (!strcmp(what, "reasons")) g->reasons = value;
        else if (!strcmp(what, "used")) g->used = value;
        else if (!strcmp(what, "corrected")) g->ecc[0] = value;
        else if (!strcmp(what, "uncorrected")) g->ecc[1] = value;
        else known = 0;
    }
    return known;
}

void stub_process(int d, u32 pid, u64 memory)
{
    Gpu *g = &gpus[d];
    g->process[g->processes++] = (Process){pid, memory, 0xFFFFFFFF, 0xFFFFFFFF};
}

/* The driver reports it, to who has asked */
static Event events[128];
static int first_event, end_event, sets[64];
void stub_xid(int d, u32 number)
{
    if (gpus[d].reports == generation)
        events[end_event++ % 128] = (Event){&handles[generation % 64][d][0], 8, number, 0xFFFFFFFF, 0xFFFFFFFF};
}

/* Of the process that was added last */
void stub_busy(int d, u32 percent) { gpus[d].busy[gpus[d].processes - 1] = percent; }

/* How often a function was called, or FieldValues:ID (of any scope) was asked for */
u64 stub_calls(const char *what)
{
    u32 field;
    if (sscanf(what, "FieldValues:%u", &field) == 1) return field_calls[field % 512];
    for (int i = 0; i < RULES && called[i].what; i++)
        if (!strcmp(called[i].what, what)) return called[i].calls;
    return 0;
}

int stub_sizeof(const char *what)
{
    if (!strcmp(what, "c_nvmlFieldValue_t")) return sizeof(FieldValue);
    if (!strcmp(what, "c_nvmlSample_t")) return sizeof(SampleValue);
    if (!strcmp(what, "nvmlPciInfo_t")) return sizeof(Pci);
    if (!strcmp(what, "c_nvmlMemory_t")) return sizeof(Memory);
    if (!strcmp(what, "c_nvmlMemory_v2_t")) return sizeof(Memory2);
    if (!strcmp(what, "c_nvmlUtilization_t")) return sizeof(Utilization);
    if (!strcmp(what, "c_nvmlTemperature_v1_t")) return sizeof(Temperature);
    if (!strcmp(what, "c_nvmlProcessInfo_v3_t")) return sizeof(Process);
    if (!strcmp(what, "c_nvmlEventData_t")) return sizeof(Event);
    return -1;
}

/* ---- the environment, for programs that a test only starts ----
 * STUB_NVML_GPUS=8  STUB_NVML_NAME=text  STUB_NVML_CHIP=0x2330  STUB_NVML_ARCHITECTURE=9  STUB_NVML_MIG=2
 * STUB_NVML_MODULE=1  STUB_NVML_WAVE=square:100:400:2  STUB_NVML_UPDATE_MS=20  STUB_NVML_SAMPLE_MS=20
 * STUB_NVML_RESET_AT=seconds (CLOCK_MONOTONIC)  STUB_NVML_INIT=9  STUB_NVML_BOOT_STAMPS=1
 * STUB_NVML_FAIL=nvmlDeviceGetPowerUsage=3,FieldValues:83:0=3
 * STUB_NVML_HANG=nvmlDeviceGetUtilizationRates:FROM:UNTIL (seconds since the library was opened)
 */
static double number(const char *name, double otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtod(text, NULL) : otherwise;
}

static void from_environment(void)
{
    char text[512], what[96], shape[16];
    double low, high, period = 0, from, until;
    int status, chip = number("STUB_NVML_CHIP", 0x2330), architecture = number("STUB_NVML_ARCHITECTURE", 9);
    count = number("STUB_NVML_GPUS", 8);
    parts = number("STUB_NVML_MIG", 0);
    module_scope = number("STUB_NVML_MODULE", 0);
    update_s = number("STUB_NVML_UPDATE_MS", 0) / 1000;
    sample_s = number("STUB_NVML_SAMPLE_MS", 20) / 1000;
    init_status = number("STUB_NVML_INIT", 0);
    epoch_clock = !number("STUB_NVML_BOOT_STAMPS", 0);
    for (int d = 0; d < MOST; d++)
        gpus[d] = (Gpu){.chip = chip, .architecture = architecture, .utilization = 50 + d, .activity = 20 + d,
                        .celsius = 40 + d, .memory_celsius = 60 + d, .clock = 1980, .memory_clock = 2619,
                        .limit = 700000, .reasons = 4, .total = 80ull << 30, .used = (1 + d) * (1ull << 30),
                        .reserved = 512 << 20, .reset_at = number("STUB_NVML_RESET_AT", 0)};
    stub_wave(-1, "constant", 0, 100, 0);
    snprintf(text, sizeof text, "%s", getenv("STUB_NVML_WAVE") ? getenv("STUB_NVML_WAVE") : "");
    if (sscanf(text, "%15[^:]:%lf:%lf:%lf", shape, &low, &high, &period) >= 3) stub_wave(-1, shape, low, high, period);
    if (getenv("STUB_NVML_NAME")) snprintf(product, sizeof product, "%s", getenv("STUB_NVML_NAME"));
    snprintf(text, sizeof text, "%s", getenv("STUB_NVML_FAIL") ? getenv("STUB_NVML_FAIL") : "");
    for (char *at = strtok(text, ","); at; at = strtok(NULL, ","))
        if (sscanf(at, "%95[^=]=%d", what, &status) == 2) stub_fail(what, -1, status);
    snprintf(text, sizeof text, "%s", getenv("STUB_NVML_HANG") ? getenv("STUB_NVML_HANG") : "");
    if (sscanf(text, "%95[^:]:%lf:%lf", what, &from, &until) == 3) stub_hang(what, -1, now() + from, now() + until);
}

__attribute__((constructor)) static void loaded(void) { compare_clocks(); from_environment(); }

/* ---- what every call begins with ---- */

static int number_of(const char *what)
{
    int i = 0;
    while (called[i].what && strcmp(called[i].what, what)) i++;
    called[i].what = what;
    return i;
}

static Status ruled(const char *what, int d)
{
    if (!rules_set) return OK;
    for (int i = 0; i < 8 && delays[i].what[0]; i++)
        if (!strcmp(delays[i].what, what)) usleep(delays[i].us);
    for (int i = 0; i < RULES; i++) {
        Rule *r = &rules[i];
        if (!r->what[0] || (r->device != -1 && r->device != d) || strcmp(r->what, what)) continue;
        if (r->status) return r->status;
        hanging++;
        while (!released && now() >= r->from && now() < r->until) usleep(1000);
        hanging--;
    }
    return OK;
}

static Status begin(const char *what, Handle *handle)
{
    Status status;
    if (!opened) return UNINITIALIZED;
    if (handle->generation != generation) return INVALID;
    if ((status = ruled(what, handle->gpu))) return status;
    return gpus[handle->gpu].lost ? LOST : OK;
}

#define BEGIN(handle) do { \
    static int number_; \
    Status s_; \
    if (!number_) number_ = 1 + number_of(__func__); \
    called[number_ - 1].calls++; \
    if ((s_ = begin(__func__, handle))) return s_; \
} while (0)
#define GPU(handle) (&gpus[(handle)->gpu])
#define NO_PART(handle) do { if ((handle)->part >= 0) return NOT_SUPPORTED; } while (0)

/* ---- NVML ---- */

Status nvmlInitWithFlags(u32 flags)
{
    (void)flags;
    if (driver_down > 1) { driver_down--; return NOT_LOADED; }
    if (driver_down) {
        driver_down = 0;
        EACH(-1) { gpus[i].lost = 0; gpus[i].since = now(); gpus[i].reset_at = 0; }
    }
    if (init_status) return init_status;
    opened++;
    generation++;
    for (int d = 0; d < MOST; d++)
        for (int p = -1; p < PARTS; p++) handles[generation % 64][d][p + 1] = (Handle){generation, d, p};
    return OK;
}

Status nvmlShutdown(void) { if (!opened) return UNINITIALIZED; opened--; return OK; }
int stub_opened(void) { return opened; }

const char *nvmlErrorString(Status status) { (void)status; return "an error of the stand-in"; }

Status nvmlSystemGetDriverVersion(char *out, u32 size) { snprintf(out, size, "580.65.06"); return OK; }

Status nvmlDeviceGetCount_v2(u32 *out)
{
    Status status = ruled(__func__, -1);
    if (!opened) return UNINITIALIZED;
    *out = count;
    return status;
}

Status nvmlDeviceGetHandleByIndex_v2(u32 index, Handle **out)
{
    Status status = ruled(__func__, index);
    if (!opened) return UNINITIALIZED;
    if ((int)index >= count) return INVALID;
    if (status) return status;
    *out = &handles[generation % 64][index][0];
    return gpus[index].lost ? LOST : OK;
}

static void uuid_of(const Handle *h, char *out, u32 size)
{
    if (h->part < 0) snprintf(out, size, "GPU-%08x-1111-4222-8333-%012x", 0xabcd0000 + h->gpu, h->gpu);
    else snprintf(out, size, "MIG-%08x-1111-5222-8333-%012x", 0xabcd0000 + h->gpu, h->part + 1);
}

Status nvmlDeviceGetHandleByUUID(const char *uuid, Handle **out)
{
    char text[96];
    if (!opened) return UNINITIALIZED;
    for (int d = 0; d < count; d++)
        for (int p = -1; p < parts; p++) {
            Handle *h = &handles[generation % 64][d][p + 1];
            uuid_of(h, text, sizeof text);
            if (strcmp(text, uuid)) continue;
            *out = h;
            return gpus[d].lost ? LOST : OK;
        }
    return NOT_FOUND;
}

Status nvmlDeviceGetUUID(Handle *h, char *out, u32 size) { BEGIN(h); uuid_of(h, out, size); return OK; }

Status nvmlDeviceGetName(Handle *h, char *out, u32 size) { BEGIN(h); snprintf(out, size, "%s", product); return OK; }

Status nvmlDeviceGetPciInfo_v3(Handle *h, Pci *out)
{
    BEGIN(h);
    *out = (Pci){.bus = 0x1A + 0x10 * h->gpu, .chip = GPU(h)->chip << 16 | 0x10DE};
    snprintf(out->legacy, sizeof out->legacy, "0000:%02X:00.0", out->bus);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", out->bus);
    return OK;
}

/* Not the index: on some nodes they differ */
Status nvmlDeviceGetMinorNumber(Handle *h, u32 *out) { BEGIN(h); NO_PART(h); *out = count - 1 - h->gpu; return OK; }

Status nvmlDeviceGetArchitecture(Handle *h, u32 *out) { BEGIN(h); *out = GPU(h)->architecture; return OK; }

Status nvmlDeviceGetMigMode(Handle *h, u32 *current, u32 *pending)
{
    BEGIN(h);
    NO_PART(h);
    *current = *pending = parts > 0;
    return OK;
}

Status nvmlDeviceGetMaxMigDeviceCount(Handle *h, u32 *out) { BEGIN(h); *out = PARTS; return OK; }

Status nvmlDeviceGetMigDeviceHandleByIndex(Handle *h, u32 index, Handle **out)
{
    BEGIN(h);
    if ((int)index >= parts) return NOT_FOUND;
    *out = &handles[generation % 64][h->gpu][index + 1];
    return OK;
}

Status nvmlDeviceGetPowerUsage(Handle *h, u32 *out)
{
    BEGIN(h);
    NO_PART(h);
    *out = lround(1000 * power_at(h->gpu, now()));
    return OK;
}

static u64 energy_of(int d, double *at)
{
    *at = updated(now());
    return (u64)fmax(0, 1000 * stub_work(d, base_of(d, *at), *at));
}

Status nvmlDeviceGetTotalEnergyConsumption(Handle *h, u64 *out)
{
    double at;
    BEGIN(h);
    NO_PART(h);
    *out = energy_of(h->gpu, &at);
    return OK;
}

static Status field(int d, FieldValue *f)
{
    char what[96];
    double at = now();
    Gpu *g = &gpus[d];
    int here = f->scope == 1 ? module_scope > 0 : module_scope != 1;  /* scope of power */
    Status status;
    field_calls[f->id % 512]++;
    if (rules_set) {
        snprintf(what, sizeof what, "FieldValues:%u:%u", f->id, f->scope);
        if ((status = ruled(what, d))) return status;
    }
    f->type = 1;
    f->value.v.ull = 0xDEADBEEF00000000ull;  /* the rest of the union may be anything */
    switch (f->id) {
    case 83: f->type = 3; f->value.v.ull = energy_of(d, &at); break;
    case 191:
        if (f->scope != 1 || !module_scope) return NOT_SUPPORTED;
        f->type = 3; f->value.v.ull = energy_of(d, &at); break;
    case 186: case 185:
        if (f->scope > 1 || !here) return NOT_SUPPORTED;
        f->value.v.ui = lround(1000 * power_at(d, at)); break;
    case 82: f->value.v.ui = g->memory_celsius; break;
    case 3: case 4: f->type = 3; f->value.v.ull = g->ecc[f->id - 3]; break;
    case 197: case 198: f->type = 3; f->value.v.ull = (u64)(at * 1e9 * (f->id - 196)); break;
    case 138: case 139:
        if (f->scope != 0xFFFFFFFF) return INVALID;
        f->type = 3; f->value.v.ull = (u64)(at * 1e6 * (f->id - 137)); break;
    default: return NOT_SUPPORTED;
    }
    f->stamp = stamp_of(at);
    f->latency = 3;
    return OK;
}

Status nvmlDeviceGetFieldValues(Handle *h, int n, FieldValue *fields)
{
    BEGIN(h);
    NO_PART(h);
    if (n < 1) return INVALID;
    for (int i = 0; i < n; i++) fields[i].status = field(h->gpu, &fields[i]);
    return OK;
}

Status nvmlDeviceGetUtilizationRates(Handle *h, Utilization *out)
{
    BEGIN(h);
    if (parts) return NOT_SUPPORTED;
    *out = (Utilization){GPU(h)->utilization, GPU(h)->activity};
    return OK;
}

Status nvmlDeviceGetMemoryInfo(Handle *h, Memory *out)
{
    Gpu *g = GPU(h);
    BEGIN(h);
    *out = (Memory){g->total, g->total - g->used - g->reserved, g->used + g->reserved};
    if (h->part >= 0) *out = (Memory){10ull << 30, 9ull << 30, (h->part + 1) * (1ull << 30)};
    return OK;
}

Status nvmlDeviceGetMemoryInfo_v2(Handle *h, Memory2 *out)
{
    Gpu *g = GPU(h);
    BEGIN(h);
    if (out->version != (sizeof *out | 2 << 24)) return 25;
    *out = (Memory2){out->version, g->total, g->reserved, g->total - g->used - g->reserved, g->used};
    if (h->part >= 0) *out = (Memory2){out->version, 10ull << 30, 0, 9ull << 30, (h->part + 1) * (1ull << 30)};
    return OK;
}

Status nvmlDeviceGetTemperatureV(Handle *h, Temperature *out)
{
    BEGIN(h);
    if (out->version != (sizeof *out | 1 << 24)) return 25;
    if (out->sensor) return INVALID;
    out->celsius = GPU(h)->celsius;
    return OK;
}

Status nvmlDeviceGetTemperature(Handle *h, int sensor, u32 *out)
{
    BEGIN(h);
    if (sensor) return INVALID;
    *out = GPU(h)->celsius;
    return OK;
}

Status nvmlDeviceGetClockInfo(Handle *h, int type, u32 *out)
{
    BEGIN(h);
    *out = type == 2 ? GPU(h)->memory_clock : GPU(h)->clock;
    return OK;
}

Status nvmlDeviceGetCurrentClocksEventReasons(Handle *h, u64 *out) { BEGIN(h); *out = GPU(h)->reasons; return OK; }

Status nvmlDeviceGetCurrentClocksThrottleReasons(Handle *h, u64 *out) { BEGIN(h); *out = GPU(h)->reasons; return OK; }

Status nvmlDeviceGetEnforcedPowerLimit(Handle *h, u32 *out) { BEGIN(h); *out = GPU(h)->limit; return OK; }

/* The newest 120 of a grid of times, like the driver's buffer */
Status nvmlDeviceGetSamples(Handle *h, int type, u64 last_us, u32 *value_type, u32 *n, SampleValue *out)
{
    u32 made = 0;
    Status status;
    double newest = floor(now() / sample_s) * sample_s;
    BEGIN(h);
    NO_PART(h);
    if (type != (module_scope == 1 ? 7 : 0) && !(module_scope == 2 && type == 7)) return NOT_SUPPORTED;
    *value_type = 1;
    if (!out) { *n = 120; return OK; }
    if ((status = ruled("nvmlDeviceGetSamples:fetch", h->gpu))) return status;
    for (int back = 119; back >= 0; back--) {
        double at = newest - back * sample_s;
        u64 stamp = stamp_of(at);
        if (stamp <= last_us) continue;
        if (made == *n) return TOO_SMALL;
        out[made].stamp = stamp;
        out[made].value.v.ull = 0xDEADBEEF00000000ull;
        out[made++].value.v.ui = lround(1000 * power_at(h->gpu, at));
    }
    *n = made;
    return made ? OK : NOT_FOUND;
}

/* Two samples of each process: half a second ago and now, with 10 percent less and more. */
Status nvmlDeviceGetProcessUtilization(Handle *h, Usage *out, u32 *n, u64 since_us)
{
    Gpu *g = GPU(h);
    u32 made = 0;
    BEGIN(h);
    NO_PART(h);
    if (!g->processes) return NOT_FOUND;
    if (!out) { *n = 2 * g->processes; return TOO_SMALL; }
    for (int half = 1; half >= 0; half--) {
        u64 stamp = stamp_of(now() - 0.5 * half);
        if (stamp <= since_us) continue;
        for (int p = 0; p < g->processes; p++) {
            if (made == *n) return TOO_SMALL;
            out[made++] = (Usage){g->process[p].pid, stamp, g->busy[p] + (half ? -10 : 10), 0, 0, 0};
        }
    }
    *n = made;
    return made ? OK : NOT_FOUND;
}

Status nvmlDeviceGetComputeRunningProcesses_v3(Handle *h, u32 *n, Process *out)
{
    Gpu *g = GPU(h);
    BEGIN(h);
    if (!g->processes) { *n = 0; return OK; }
    if (!out || (int)*n < g->processes) { *n = g->processes; return TOO_SMALL; }
    *n = g->processes;
    memcpy(out, g->process, g->processes * sizeof *out);
    return OK;
}

Status nvmlEventSetCreate(int **out)
{
    Status status = ruled(__func__, -1);
    if (!opened) return UNINITIALIZED;
    if (status) return status;
    *out = &sets[generation % 64];
    **out = generation;
    return OK;
}

Status nvmlDeviceRegisterEvents(Handle *h, u64 types, int *set)
{
    BEGIN(h);
    NO_PART(h);
    if (types != 8 || *set != generation) return INVALID;
    GPU(h)->reports = generation;
    return OK;
}

/* Like the driver, it waits as long as it may; and a set of an earlier nvmlInit is gone */
Status nvmlEventSetWait_v2(int *set, Event *out, u32 ms)
{
    Status status = ruled(__func__, -1);
    if (!opened) return UNINITIALIZED;
    if (*set != generation) abort();
    if (status) return status;
    if (first_event == end_event) {
        if (ms) usleep(1000 * ms);
        return TIMEOUT;
    }
    *out = events[first_event++ % 128];
    return OK;
}
