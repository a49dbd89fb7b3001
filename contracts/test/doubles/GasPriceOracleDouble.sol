// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title GasPriceOracleDouble
/// @notice The fee oracle of the OP stack, as far as the keeper asks it, with its formulas and with
/// what it refuses at each fork. Fees are fixed; the fork stands in slot 0.
contract GasPriceOracleDouble {
    enum Fork {
        ECOTONE,
        FJORD,
        ISTHMUS,
        JOVIAN
    }

    Fork internal fork;

    uint256 internal constant L1_BASE_FEE = 1 gwei;
    uint256 internal constant BLOB_BASE_FEE = 3;
    uint256 internal constant BASE_FEE_SCALAR = 2269;
    uint256 internal constant BLOB_BASE_FEE_SCALAR = 1_055_762;
    uint256 internal constant OPERATOR_SCALAR = 20;
    uint256 internal constant OPERATOR_CONSTANT = 7;

    function getL1FeeUpperBound(uint256 unsignedTxSize) external view returns (uint256) {
        require(fork >= Fork.FJORD, "GasPriceOracle: getL1FeeUpperBound only supports Fjord");
        uint256 signed = unsignedTxSize + 68;
        uint256 compressed = signed + signed / 255 + 16;
        // The regression of Fjord: an intercept of -42,585,600, and 100 bytes at least.
        uint256 estimated = compressed * 836_500;
        estimated = estimated < 142_585_600 ? 100_000_000 : estimated - 42_585_600;
        uint256 scaled = BASE_FEE_SCALAR * 16 * L1_BASE_FEE + BLOB_BASE_FEE_SCALAR * BLOB_BASE_FEE;
        return estimated * scaled / 1e12;
    }

    function getOperatorFee(uint256 gasUsed) external view returns (uint256) {
        // The code of earlier forks does not have the function.
        if (fork < Fork.ISTHMUS) revert();
        if (fork == Fork.ISTHMUS) return gasUsed * OPERATOR_SCALAR / 1e6 + OPERATOR_CONSTANT;
        return gasUsed * OPERATOR_SCALAR * 100 + OPERATOR_CONSTANT;
    }
}
