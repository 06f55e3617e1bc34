/* A stand-in for libamd_smi.so of ROCm 7.0, as a Frontier node has it: 8 GCDs of MI250X, of which every second one
 * meters nothing. What is not here is NOT_SUPPORTED, by weak functions that `amd_smi.py` generates from the binding.
 *
 * Sources: the structures are those of AMD SMI 7.0 (amdsmi.h); `stub_sizeof` and `stub_offset` let a test compare them
 * with the installed binding's. Energy is an exact function of CLOCK_BOOTTIME: see `stub_counts`.
 *
 * Environment, read by amdsmi_init: STUB_AMD_INIT (its status), STUB_AMD_GPUS (how many can be opened).
 * Control (each 0): stub_fail(function, status), stub_power(gcd, watts), stub_absent(1: every member is all ones),
 * stub_secondary(0: reports 0, 1: all ones, 2: NOT_SUPPORTED), stub_no_table(1), stub_hang(function, seconds),
 * stub_zero(gcd): its counter begins anew.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVAL = 1, NOT_SUPPORTED = 2, NOT_INIT = 32, GCDS = 8, NAMES = 16 };

typedef struct { uint16_t structure_size; uint8_t format_revision, content_revision; } header_t;
typedef struct {
    uint32_t gfx_busy_inst[8];
    uint16_t jpeg_busy[40], vcn_busy[4];
    uint64_t gfx_busy_acc[8], below[8], below_ppt[8], below_thm[8], low_utilization[8], below_total[8];
} xcp_t;
typedef struct {
    header_t common_header;
    uint16_t temperature_edge, temperature_hotspot, temperature_mem, temperature_vrgfx, temperature_vrsoc,
        temperature_vrmem, average_gfx_activity, average_umc_activity, average_mm_activity, average_socket_power;
    uint64_t energy_accumulator, system_clock_counter;
    uint16_t average_clocks[7];
    uint16_t current_gfxclk, current_socclk, current_uclk, current_vclk0, current_dclk0, current_vclk1, current_dclk1;
    uint32_t throttle_status;
    uint16_t current_fan_speed, pcie_link_width, pcie_link_speed;
    uint32_t gfx_activity_acc, mem_activity_acc;
    uint16_t temperature_hbm[4];
    uint64_t firmware_timestamp;
    uint16_t voltage_soc, voltage_gfx, voltage_mem;
    uint64_t indep_throttle_status;
    uint16_t current_socket_power, vcn_activity[4];
    uint32_t gfxclk_lock_status;
    uint16_t xgmi_link_width, xgmi_link_speed;
    uint64_t pcie_bandwidth_acc, pcie_bandwidth_inst, pcie_l0_to_recov_count_acc, pcie_replay_count_acc,
        pcie_replay_rover_count_acc, xgmi_read_data_acc[8], xgmi_write_data_acc[8];
    uint16_t current_gfxclks[8], current_socclks[4], current_vclk0s[4], current_dclk0s[4], jpeg_activity[32];
    uint32_t pcie_nak_sent_count_acc, pcie_nak_rcvd_count_acc;
    uint64_t accumulation_counter, prochot_residency_acc, ppt_residency_acc, socket_thm_residency_acc,
        vr_thm_residency_acc, hbm_thm_residency_acc;
    uint16_t num_partition;
    xcp_t xcp_stats[8];
    uint32_t pcie_lc_perf_other_end_recovery;
    uint64_t vram_max_bandwidth;
    uint16_t xgmi_link_status[8];
} gpu_metrics_t;
typedef struct {
    uint64_t socket_power;
    uint32_t current_socket_power, average_socket_power;
    uint64_t gfx_voltage, soc_voltage, mem_voltage;
    uint32_t power_limit;
    uint64_t reserved[18];
} power_info_t;
typedef struct { uint64_t power_cap, default_power_cap, dpm_cap, min_power_cap, max_power_cap, reserved[3]; } cap_t;
typedef struct {
    char market_name[256];
    uint32_t vendor_id;
    char vendor_name[256];
    uint32_t subvendor_id;
    uint64_t device_id;
    uint32_t rev_id;
    char asic_serial[256];
    uint32_t oam_id, num_of_compute_units;
    uint64_t target_graphics_version;
    uint32_t subsystem_id, reserved[21];
} asic_info_t;
typedef struct { uint64_t kfd_id; uint32_t node_id, current_partition_id, reserved[12]; } kfd_info_t;
typedef struct { uint32_t gfx_activity, umc_activity, mm_activity, reserved[13]; } usage_t;
typedef struct { uint32_t clk, min_clk, max_clk; uint8_t clk_locked, clk_deep_sleep; uint32_t reserved[4]; } clk_info_t;
typedef struct { uint32_t major, minor, release; const char *build; } version_t;

static const uint8_t BUSES[GCDS] = {0xc1, 0xc6, 0xc9, 0xce, 0xd1, 0xd6, 0xd9, 0xde};

static struct { uint64_t base_counts, since_ns, watts; } gcds[GCDS];
static int initialised, visible = GCDS, absent, secondary, no_table;
static struct { char function[64]; int status; double seconds; } rules[NAMES];
static uint32_t version_major = 26, version_minor = 0;
static int calls;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Counts of 2^-16 J at a time of CLOCK_BOOTTIME. */
uint64_t stub_counts(int gcd, uint64_t at_ns) {
    unsigned __int128 counts = (unsigned __int128)gcds[gcd].watts * (at_ns - gcds[gcd].since_ns) * 65536u;
    return gcds[gcd].base_counts + (uint64_t)(counts / 1000000000u);
}
void stub_power(int gcd, int watts) {
    uint64_t now = now_ns();
    gcds[gcd].base_counts = stub_counts(gcd, now);
    gcds[gcd].since_ns = now;
    gcds[gcd].watts = (uint64_t)watts;
}
void stub_zero(int gcd) { gcds[gcd].base_counts = 0; gcds[gcd].since_ns = now_ns(); }
void stub_absent(int on) { absent = on; }
void stub_secondary(int how) { secondary = how; }
void stub_no_table(int on) { no_table = on; }
void stub_version(int major, int minor) { version_major = (uint32_t)major; version_minor = (uint32_t)minor; }
int stub_calls(void) { return calls; }

static void rule(const char *function, int status, double seconds) {
    for (int i = 0; i < NAMES; i++)
        if (!rules[i].function[0] || !strcmp(rules[i].function, function)) {
            snprintf(rules[i].function, sizeof rules[i].function, "%s", function);
            rules[i].status = status;
            rules[i].seconds = seconds;
            return;
        }
}
void stub_fail(const char *function, int status) { rule(function, status, 0); }
void stub_hang(const char *function, double seconds) { rule(function, OK, seconds); }

/* Every function begins with this: what it is to do instead. */
static int instead(const char *function) {
    calls++;
    for (int i = 0; i < NAMES; i++)
        if (!strcmp(rules[i].function, function)) {
            if (rules[i].seconds > 0) {
                struct timespec t = {(time_t)rules[i].seconds,
                                     (long)((rules[i].seconds - (time_t)rules[i].seconds) * 1e9)};
                nanosleep(&t, NULL);
            }
            return rules[i].status;
        }
    return initialised ? OK : NOT_INIT;
}
#define BEGIN int status = instead(__func__); if (status) return status
#define GCD int gcd = (int)((intptr_t)handle - 1000); if (gcd < 0 || gcd >= GCDS) return INVAL
#define METERS (gcd % 2 == 0)

int amdsmi_init(uint64_t flags) {
    (void)flags;
    const char *word = getenv("STUB_AMD_INIT"), *gpus = getenv("STUB_AMD_GPUS");
    printf("AMD SMI says hello\n"); /* stays in C's buffer: some do print */
    if (word && atoi(word))
        return atoi(word);
    visible = gpus ? atoi(gpus) : GCDS;
    for (int gcd = 0; gcd < GCDS && !initialised; gcd++)
        if (!gcds[gcd].since_ns) {
            gcds[gcd].since_ns = now_ns();
            gcds[gcd].watts = 90 + (uint64_t)gcd;
            gcds[gcd].base_counts = ((uint64_t)gcd + 1) * 1000 * 65536;
        }
    initialised++;
    return OK;
}
int amdsmi_shut_down(void) { initialised -= initialised > 0; return OK; }

/* On MI250X each GCD is a socket of its own. */
int amdsmi_get_socket_handles(uint32_t *count, void **handles) {
    BEGIN;
    for (int i = 0; handles && i < visible; i++)
        handles[i] = (void *)(intptr_t)(1000 + i);
    *count = (uint32_t)visible;
    return OK;
}
int amdsmi_get_processor_handles(void *socket, uint32_t *count, void **handles) {
    BEGIN;
    *count = 1;
    if (handles)
        handles[0] = socket;
    return OK;
}
int amdsmi_get_gpu_device_bdf(void *handle, uint64_t *bdf) {
    BEGIN; GCD;
    *bdf = (uint64_t)BUSES[gcd] << 8;
    return OK;
}
int amdsmi_get_gpu_asic_info(void *handle, asic_info_t *out) {
    BEGIN; GCD;
    memset(out, 0, sizeof *out);
    snprintf(out->market_name, sizeof out->market_name, "AMD Instinct MI250X");
    snprintf(out->vendor_name, sizeof out->vendor_name, "Advanced Micro Devices, Inc.");
    snprintf(out->asic_serial, sizeof out->asic_serial, "0x8F1C2D3E4A5B6C%02X", gcd);
    out->vendor_id = 0x1002;
    out->device_id = 0x7408;
    out->oam_id = (uint32_t)gcd;
    return OK;
}
int amdsmi_get_gpu_kfd_info(void *handle, kfd_info_t *out) {
    BEGIN; GCD;
    memset(out, 0, sizeof *out);
    out->node_id = (uint32_t)(4 + gcd);
    return OK;
}
int amdsmi_get_gpu_metrics_info(void *handle, gpu_metrics_t *out) {
    BEGIN; GCD;
    if (no_table)
        return NOT_SUPPORTED;
    memset(out, 0xff, sizeof *out);
    out->common_header = (header_t){120, 1, 3};
    if (absent)
        return OK;
    uint64_t now = now_ns();
    out->temperature_edge = (uint16_t)(40 + gcd);
    out->temperature_hotspot = (uint16_t)(45 + gcd);
    out->temperature_mem = (uint16_t)(50 + gcd);
    out->average_gfx_activity = (uint16_t)(10 * gcd);
    out->average_umc_activity = (uint16_t)gcd;
    if (METERS || secondary == 0) {
        out->average_socket_power = METERS ? (uint16_t)gcds[gcd].watts : 0;
        out->energy_accumulator = METERS ? stub_counts(gcd, now) : 0;
    }
    out->system_clock_counter = now;
    out->current_gfxclk = out->current_gfxclks[0] = 1700;
    out->current_uclk = 1600;
    out->throttle_status = 0x14;
    out->indep_throttle_status = 0x300000000u;
    return OK;
}
int amdsmi_get_energy_count(void *handle, uint64_t *counts, float *resolution, uint64_t *stamp) {
    BEGIN; GCD;
    if (!METERS && secondary == 2)
        return NOT_SUPPORTED;
    *stamp = now_ns();
    *resolution = 15.3F;
    *counts = absent || (!METERS && secondary == 1) ? UINT64_MAX : METERS ? stub_counts(gcd, *stamp) : 0;
    return OK;
}
int amdsmi_get_power_info(void *handle, power_info_t *out) {
    BEGIN; GCD;
    if (!METERS && secondary == 2)
        return NOT_SUPPORTED;
    memset(out, 0xff, sizeof *out);
    out->current_socket_power = 0xFFFF;
    if (!absent && (METERS || secondary == 0))
        out->average_socket_power = METERS ? (uint32_t)gcds[gcd].watts : 0;
    return OK;
}
int amdsmi_get_power_cap_info(void *handle, uint32_t sensor, cap_t *out) {
    BEGIN; GCD;
    (void)sensor;
    memset(out, 0, sizeof *out);
    out->power_cap = METERS ? 560000000u : 0;
    return OK;
}
int amdsmi_get_gpu_activity(void *handle, usage_t *out) {
    BEGIN; GCD;
    memset(out, 0xff, sizeof *out);
    if (!absent)
        out->gfx_activity = (uint32_t)(10 * gcd), out->umc_activity = (uint32_t)gcd;
    out->mm_activity = 0xFFFF;
    return OK;
}
int amdsmi_get_temp_metric(void *handle, uint32_t sensor, uint32_t metric, int64_t *celsius) {
    BEGIN; GCD;
    if (sensor > 2 || metric)
        return NOT_SUPPORTED;
    *celsius = absent ? INT64_MAX : 40 + gcd + 5 * (int64_t)sensor;
    return OK;
}
int amdsmi_get_clock_info(void *handle, uint32_t kind, clk_info_t *out) {
    BEGIN; GCD;
    memset(out, 0xff, sizeof *out);
    if (!absent)
        out->clk = kind == 0 ? 1700 : 1600;
    return OK;
}
int amdsmi_get_gpu_memory_total(void *handle, uint32_t kind, uint64_t *bytes) {
    BEGIN; GCD;
    (void)kind;
    *bytes = 64ull << 30;
    return OK;
}
int amdsmi_get_gpu_memory_usage(void *handle, uint32_t kind, uint64_t *bytes) {
    BEGIN; GCD;
    (void)kind;
    *bytes = (10ull + (uint64_t)gcd) << 20;
    return OK;
}
int amdsmi_get_lib_version(version_t *out) {
    *out = (version_t){version_major, version_minor, 0, "7.0"};
    return OK;
}

#define SIZE(type) {#type, sizeof(type)}
long stub_sizeof(const char *name) {
    static const struct { const char *name; size_t size; } sizes[] = {
        SIZE(gpu_metrics_t), SIZE(power_info_t), SIZE(cap_t), SIZE(asic_info_t), SIZE(kfd_info_t), SIZE(usage_t),
        SIZE(clk_info_t), SIZE(version_t)};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (!strcmp(sizes[i].name, name))
            return (long)sizes[i].size;
    return -1;
}
#define OFFSET(member) {#member, offsetof(gpu_metrics_t, member)}
long stub_offset(const char *member) {
    static const struct { const char *name; size_t offset; } offsets[] = {
        OFFSET(energy_accumulator), OFFSET(system_clock_counter), OFFSET(average_socket_power), OFFSET(current_gfxclk),
        OFFSET(throttle_status), OFFSET(indep_throttle_status), OFFSET(current_socket_power), OFFSET(xgmi_read_data_acc),
        OFFSET(current_gfxclks), OFFSET(ppt_residency_acc), OFFSET(xcp_stats), OFFSET(xgmi_link_status)};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++)
        if (!strcmp(offsets[i].name, member))
            return (long)offsets[i].offset;
    return -1;
}
