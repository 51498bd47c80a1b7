# Tests of models, losses and training that every back end must pass, as files of this folder: named once for the CPU's
# programs, the emulator's and those of tests/gpu. A list holds no file twice, and a program takes what it needs once.

# Central differences take thousands of passes: those are the CPU's, with which test_model_device.c compares.
set(KD_MODEL_TESTS test_parameters.c test_decoder.c test_taps.c test_packed.c test_probe.c test_golden.c
    test_model_device.c ../support/golden.c ../support/tap_run.c ../support/tap_pull.c ../support/probing.c
    ../support/router_pull.c ../support/tiny_model.c ../support/back_end.c ../support/tiny_config.c)

# No test of hundreds of steps, nor one that reads tensors in place.
set(KD_TRAIN_SUPPORT ../support/temporary.c ../support/tiny_model.c ../support/back_end.c ../support/tiny_config.c
    ../support/tiny_train.c ../support/tiny_objective.c ../support/late_queue.c)
set(KD_STEP_TESTS test_optimizer.c test_step.c test_step_cut.c test_step_counts.c test_step_changes.c
    test_step_asked.c test_step_time.c test_evaluate.c test_reduce_staged.c)
set(KD_CHECKPOINT_TESTS test_groups.c test_checkpoint.c)
set(KD_DISTILL_TESTS test_channel.c test_teacher.c test_objective.c)

# A loss that only this test has stands in the table: a program of its own, linked with --wrap=kd_loss_kind_at.
set(KD_CHUNK_LOSS_TESTS test_chunk_loss.c)

# libkd, which takes the CUDA device where there is one.
set(KD_LIBRARY_TESTS test_kd.c test_kd_checkpoint.c ../support/small_student.c ../support/temporary.c)
